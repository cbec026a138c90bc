"""The schema defines all settings, and every error names the path of a setting."""

import ast
import dataclasses
import json

import pytest
from conftest import ROOT

from vit_jax import config as config_lib
from vit_jax import models
from vit_jax.config import identity
from vit_jax.errors import ConfigError


def tree():
    return config_lib.to_config_dict(valid())


def valid():
    return config_lib.Config(total_steps=10)


def test_resolve_inverts_to_config_dict():
    assert config_lib.resolve(tree()).config == valid()


def test_resolved_config_survives_json():
    text = json.dumps(config_lib.as_dict(valid()))
    assert config_lib.resolve(json.loads(text)).config == valid()


def test_resolved_config_holds_only_strings_and_numbers():
    def leaves(value):
        if isinstance(value, dict | tuple | list):
            items = value.values() if isinstance(value, dict) else value
            return [leaf for item in items for leaf in leaves(item)]
        return [value]

    assert {type(leaf) for leaf in leaves(config_lib.as_dict(valid()))} <= {str, int, float, bool}


def assign(path, value):
    node = config = tree()
    *sections, key = path.split(".")
    for section in sections:
        node = node[section]
    node[key] = value
    return config


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("optim.learnig_rate", 1.0, "config.optim.learnig_rate: no such field; did you mean 'opti"),
        ("seeed", 1, "config.seeed: no such field; did you mean 'seed'?"),
        ("data", {"image_sise": (8, 8)}, "config.data.image_sise: no such field; did you mean 'da"),
        ("data", 3, "config.data: expected a section, got 3"),
        ("model", 3, "config.model: expected a section, got 3"),
        ("model.attention", 3, "config.model.attention: expected a section, got 3"),
        ("model", {"name": "vit_s16", "dpeth": 3}, "config.model.dpeth: vit_s16 has no such field"),
        ("model.dpeth", 3, "did you mean 'model.depth'?"),
        ("model.name", "vit_b61x", "config.model.name: unknown 'vit_b61x'; did you mean 'vit_b16'"),
        ("model.depth", 1.5, "config.model.depth: expected an integer, got 1.5"),
        (
            "model.stem.patch",
            (3, 3),
            "config.data.image_size: height 224 is not a multiple of config.mo",
        ),
        (
            "model.stem.patch",
            (4,),
            "config.model.stem.patch: expected 2 values (each an integer), got (4,)",
        ),
        (
            "model.stem.patch",
            4,
            "config.model.stem.patch: expected 2 values (each an integer), got 4",
        ),
        ("model.num_heads", 5, "config.model.num_heads: 5 does not divide width 384"),
        (
            "model.pool",
            "mean",
            "config.model.pool.name: unknown 'mean'; choose from cls, cls_gap, gap, map",
        ),
        ("batch_size", "big", "config.batch_size: expected an integer, got 'big'"),
        ("batch_size", True, "config.batch_size: expected an integer, got True"),
        ("batch_size", None, "config.batch_size: expected an integer, got None"),
        ("batch_size", 0, "config.batch_size: expected at least 1, got 0"),
        ("optim.learning_rate", -1.0, "config.optim.learning_rate: expected at least 0, got -1.0"),
        ("optim.learning_rate", float("nan"), "config.optim.learning_rate: expected a number, got"),
        ("optim", {5: 1}, "config.optim.5: no such field"),
        ("model", "vit_x16", "config.model.name: unknown 'vit_x16'; did you mean 'vit_"),
        ("optim.ema_decay", 1.5, "config.optim.ema_decay: expected less than 1, got 1.5"),
        ("optim.freeze", "head", "config.optim.freeze: expected any number of values (each text)"),
        ("optim.decay_rules", ((1, 2.0),), "config.optim.decay_rules[0][0]: expected text, got 1"),
        (
            "data.image_size",
            (8, 8, 8),
            "config.data.image_size: expected 2 values (each an integer",
        ),
        ("data.mean", (0.5,), "config.data.mean: expected 3 numbers, one per channel"),
        ("log.tensorboard", 1, "config.log.tensorboard: expected true or false, got 1"),
        ("checkpoint.keep", 1, "config.checkpoint.keep: expected at least 2, got 1"),
        ("mesh.data", 0, "config.mesh: expected positive sizes and at most one -1, got (0, 1, 1)"),
        ("optim.accum_steps", 3, "config.optim.accum_steps: 3 does not divide config.batch_size 1"),
    ],
)
def test_an_invalid_setting_is_refused_with_its_path(path, value, message):
    with pytest.raises(ConfigError) as error:
        config_lib.resolve(assign(path, value))
    assert message in str(error.value)
    assert error.value.exit_code == 64


@pytest.mark.parametrize(
    ("path", "text", "value"),
    [
        ("optim.learning_rate", "1e-3", 1e-3),
        ("optim.learning_rate", "1", 1.0),
        ("data.image_size", "32,48", (32, 48)),
        ("data.image_size", "(32, 48)", (32, 48)),
        ("data.train_split", "train[:90%]", "train[:90%]"),
        ("optim.freeze", "('stem/.*',)", ("stem/.*",)),
        ("optim.freeze", "stem/.*, head/.*", ("stem/.*", "head/.*")),
        ("optim.freeze", "", ()),
        ("optim.freeze", ".*/(bias|scale)", (".*/(bias|scale)",)),
        ("optim.freeze", "(stem|posemb)/.*, head/[a-z]", ("(stem|posemb)/.*", "head/[a-z]")),
        ("log.tensorboard", "False", False),
        ("model.depth", "3", 3),
    ],
)
def test_the_text_of_a_flag_is_parsed_by_the_type_of_the_field(path, text, value):
    config = config_lib.resolve(tree(), {path: text}).config
    assert config_lib.flatten(config_lib.as_dict(config))[path] == value


@pytest.mark.parametrize(
    ("path", "text", "message"),
    [
        (
            "optm.learning_rate",
            "1",
            "config.optm.learning_rate: no such field; did you mean 'optim",
        ),
        ("optim.lerning_rate", "1", "did you mean 'optim.learning_rate'?"),
        ("model.base", "vit_b16", "config.model.base: vit_s16 has no such field"),
        ("model.stem.patch", "0,0", "config.model.stem.patch: expected at least 1, got 0"),
        ("optim.learning_rate", "1e999", "config.optim.learning_rate: expected a number, got inf"),
        ("seed", "{[]: 1}", "config.seed: expected an integer, got '{[]: 1}'"),
        ("seed", "4294967296", "config.seed: expected at most 4294967295"),
        ("total_epochs", "inf", "config.total_epochs: expected a number, got 'inf'"),
        ("model.norm_eps", "-1", "config.model.norm_eps: expected more than 0, got -1.0"),
        ("mesh", "1", "config.mesh: expected a section, got 1"),
        ("batch_size", "1e3", "config.batch_size: expected an integer, got 1000.0"),
        ("batch_size", "many", "config.batch_size: expected an integer, got 'many'"),
        ("log.tensorboard", "maybe", "config.log.tensorboard: expected true or false, got 'maybe'"),
        (
            "data.image_size",
            "8x8",
            "config.data.image_size: expected 2 values (each an integer), got ('",
        ),
        ("model.name", "vit_x16", "config.model.name: unknown 'vit_x16'; did you mean 'vit_"),
    ],
)
def test_an_invalid_flag_is_refused_with_its_path(path, text, message):
    with pytest.raises(ConfigError) as error:
        config_lib.resolve(tree(), {path: text})
    assert message in str(error.value)


def test_another_model_name_brings_its_sizes_and_keeps_the_rest_of_the_file():
    config = tree()
    config.model = models.spec("vit_s16", pool="gap")
    flags = {"model.name": "vit_b16", "model.width": "384"}
    model = config_lib.resolve(config, flags).config.model
    assert (model["name"], model["pool"]["name"], model["depth"]) == ("vit_b16", "gap", 12)
    assert (model["mlp_dim"], model["width"]) == (3072, 384)


def test_another_model_name_replaces_the_sizes_that_the_file_set():
    config = tree()
    config.model = models.spec("vit_mu4", width=64, depth=4, mlp_dim=128, num_classes=10)
    model = config_lib.resolve(config, {"model.name": "vit_s32"}).config.model
    preset = models.spec("vit_s32", num_classes=10).to_dict()
    assert model == preset


def test_flags_reach_fields_that_a_replaced_section_left_out():
    config = tree()
    config.optim = {"name": "sgd"}
    changed = config_lib.resolve(config, {"optim.momentum": "0.5"}).config
    assert (changed.optim.name, changed.optim.momentum) == ("sgd", 0.5)


def test_another_model_name_in_a_config_file_brings_its_sizes():
    config = tree()
    config.model.name = "vit_b16"
    assert config_lib.resolve(config).config.model["width"] == 768


def test_every_field_of_the_schema_is_read_somewhere():
    source = "".join(path.read_text() for path in (ROOT / "vit_jax").rglob("*.py"))
    nodes = list(ast.walk(ast.parse(source)))
    read = {node.attr for node in nodes if isinstance(node, ast.Attribute)}
    read |= {node.value for node in nodes if isinstance(node, ast.Constant)}  # names in tables
    sections = [value for value in vars(config_lib).values() if dataclasses.is_dataclass(value)]
    fields = {field.name for section in sections for field in dataclasses.fields(section)}
    assert fields <= read


def test_no_hidden_defaults():
    for path in (ROOT / "vit_jax").rglob("*.py"):
        assert "config.get(" not in path.read_text(), path


def test_only_free_keys_may_change():
    old = config_lib.as_dict(valid())
    new = json.loads(json.dumps(old))
    new["log"]["every_seconds"] = 1.0
    new["mesh"]["fsdp"] = 2
    new["data"]["workers"] = 2
    assert config_lib.changed_keys(json.loads(json.dumps(old)), new) == []
    new["objective"]["teacher"] = "DIR"
    changed = config_lib.changed_keys(json.loads(json.dumps(old)), new)
    assert changed == [
        "objective.teacher"
    ]  # it may change to another path, but not from an empty one
    old["objective"]["teacher"] = "ELSEWHERE"
    new["optim"]["learning_rate"] = 1.0
    new["seed"] = 7
    changed = config_lib.changed_keys(json.loads(json.dumps(old)), new)
    assert changed == ["optim.learning_rate", "seed"]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"scan": True, "remat": "block"}, []),
        ({"attention": {"name": "fused", "dropout": None}}, []),
        ({"attention": {"name": "fused", "dropout": 0.1}}, ["dropout"]),
        ({"attention": {"name": "window"}}, ["name"]),
    ],
)
def test_a_model_may_be_computed_in_another_way(change, expected):
    old = json.loads(json.dumps(config_lib.as_dict(valid())))
    model = {**old["model"], **change}
    model["attention"] = {**old["model"]["attention"], **change.get("attention", {})}
    changed = config_lib.changed_keys(old, {**old, "model": model})
    assert changed == [f"model.attention.{key}" for key in expected]
    assert identity.is_same_function("model.attention.name", "window", "window")


@pytest.mark.parametrize("key", ["momentum", "b1", "b2", "ema_decay"])
def test_a_decay_of_one_is_refused(key):
    with pytest.raises(
        ConfigError, match=rf"^config\.optim\.{key}: expected less than 1, got 1\.0"
    ):
        config_lib.resolve(None, {f"optim.{key}": "1"})
