"""Layers of settings: which origin wins, and what a run inherits from pretrained weights."""

import copy
import dataclasses
import json
import pathlib

import ml_collections
import pytest
from etils import epath

from vit_jax import config as config_lib
from vit_jax import models
from vit_jax.config import layers, stored
from vit_jax.errors import ConfigError

HERE = pathlib.Path(__file__).name
SMALL = {"width": 16, "depth": 1, "num_heads": 2, "mlp_dim": 32}


def write_source(folder, **fields):
    """Writes the settings of a run with ImageNet's mean and std, and GELU's tanh form."""
    c = config_lib.to_config_dict(config_lib.Config())
    c.model = models.spec("vit_mu4", **{**SMALL, "mlp.activation": "gelu_tanh", **fields})
    c.data.image_size = (8, 8)
    c.data.mean = (0.485, 0.456, 0.406)
    c.data.std = (0.229, 0.224, 0.225)
    c.data.interpolation = "bilinear"
    c.optim.learning_rate = 0.5
    c.total_steps = 7
    resolved = config_lib.resolve(c)
    stored.write(epath.Path(folder), resolved.config, resolved.origins)
    return str(folder)


@pytest.fixture
def source(tmp_path):
    return write_source(tmp_path / "source")


def file_of(model=None, **settings):
    """Returns the tree of a config file that sets these fields, with `__` for a dot."""
    c = config_lib.to_config_dict(config_lib.Config())
    c.model = {"name": ""} if model is None else model
    for key, value in settings.items():
        *sections, name = key.split("__")
        node = c
        for section in sections:
            if section not in node:  # a model without a name has no sections
                node[section] = {}
            node = node[section]
        node[name] = value
    return c


def leaves(resolved):
    return config_lib.flatten(config_lib.as_dict(resolved.config))


# --- A value that equals the default counts as set.


@pytest.mark.parametrize(
    ("setting", "origin"),
    [
        ({"flags": {"model.mlp.activation": "gelu"}}, r"\(flag\)"),
        ({"file": {"model__mlp__activation": "gelu"}}, rf"{HERE}:\d+\)"),
        ({"flags": {"model.norm_eps": "1e-6"}, "fields": {"norm_eps": 1e-12}}, r"\(flag\)"),
        (
            {
                "file": {"model__posemb__antialias": True},
                "fields": {"posemb.antialias": False},
            },
            rf"{HERE}:\d+\)",
        ),
        (
            {
                "flags": {"model.posemb.interpolation": "bicubic"},
                "fields": {"posemb.interpolation": "spline"},
            },
            r"\(flag\)",
        ),
    ],
)
def test_numerics_that_contradict_the_weights_are_refused_with_both_origins(
    setting, origin, tmp_path
):
    folder = write_source(tmp_path / "source", **setting.get("fields", {}))
    tree = file_of(init_from=folder, **setting.get("file", {}))
    (path,) = {**setting.get("flags", {}), **setting.get("file", {})}
    message = (
        rf"^config\.{path.replace('__', '.')}: .*{origin}.*trained with .* \(init_from {folder}\)$"
    )
    with pytest.raises(ConfigError, match=message):
        config_lib.resolve(tree, setting.get("flags"))


def test_mean_and_deviation_may_be_set_to_the_default_and_the_run_says_so(source):
    flags = {"init_from": source, "data.mean": "0.5,0.5,0.5"}
    resolved = config_lib.resolve(file_of(data__std=(0.5, 0.5, 0.5)), flags)
    assert resolved.config.data.mean == resolved.config.data.std == (0.5, 0.5, 0.5)
    assert resolved.config.model["mlp"]["activation"] == "gelu_tanh"
    mean, std = resolved.notes
    trained = f"(0.485, 0.456, 0.406) (init_from {source})"
    assert mean == f"config.data.mean is (0.5, 0.5, 0.5) (flag), not {trained}"
    assert std.startswith("config.data.std is (0.5, 0.5, 0.5) (") and f"{HERE}:" in std


def test_the_value_of_the_weights_may_be_repeated(source):
    flags = {"init_from": source, "model.mlp.activation": "gelu_tanh"}
    resolved = config_lib.resolve(file_of(), flags)
    assert resolved.config.model["mlp"]["activation"] == "gelu_tanh"
    assert resolved.origins["model.mlp.activation"] == "flag"


# --- Later layers win.

# Path, and the value that each layer sets.
NUMERICS = (
    "model.pool.name",
    {"preset": "cls", "init_from": "map", "file": "gap", "flag": "cls_gap"},
)
DATA = ("data.fit", {"default": "crop", "init_from": "squash", "file": "crop", "flag": "squash"})
ORDER = ("default", "preset", "init_from", "file", "flag")


@pytest.mark.parametrize(("path", "values"), [NUMERICS, DATA], ids=["model", "data"])
@pytest.mark.parametrize("mask", range(8))
def test_the_last_layer_that_sets_a_value_wins(path, values, mask, tmp_path):
    present = [name for i, name in enumerate(("init_from", "file", "flag")) if mask >> i & 1]
    c = config_lib.to_config_dict(config_lib.Config())
    c.model = models.spec("vit_mu4", **SMALL)
    c.data.image_size = (8, 8)
    section, key = path.removesuffix(".name").split(".")
    flags = {}
    if "init_from" in present:
        tree = copy.deepcopy(c)
        tree[section][key] = values["init_from"]
        resolved = config_lib.resolve(tree)
        stored.write(epath.Path(tmp_path), resolved.config, resolved.origins)
        flags["init_from"] = str(tmp_path)
    if "file" in present:
        c[section][key] = values["file"]
    if "flag" in present:
        flags[path] = values["flag"]
    resolved = config_lib.resolve(c, flags)
    last = max([*present, *(values.keys() & {"default", "preset"})], key=ORDER.index)
    assert leaves(resolved)[path] == values[last]
    origin = resolved.origins[path]
    expected = {
        "default": "default",
        "preset": "preset vit_mu4",
        "init_from": f"init_from {tmp_path}",
        "flag": "flag",
    }
    assert origin == expected[last] if last != "file" else f"{HERE}:" in origin


@pytest.mark.parametrize("value", [0.5, 1e-3])
def test_the_optimizer_is_not_inherited_from_the_weights(value, source):
    flags = {"init_from": source}
    assert config_lib.resolve(file_of(), flags).config.optim.learning_rate == 1e-3
    resolved = config_lib.resolve(file_of(optim__learning_rate=value), flags)
    assert resolved.config.optim.learning_rate == value
    assert f"{HERE}:" in resolved.origins["optim.learning_rate"]
    flags["optim.learning_rate"] = "1e-3"
    resolved = config_lib.resolve(file_of(optim__learning_rate=value), flags)
    assert resolved.config.optim.learning_rate == 1e-3
    assert resolved.origins["optim.learning_rate"] == "flag"


# --- Durations.

TOTAL = ("total_steps", "total_epochs", "total_images")
WARMUP = tuple(f"optim.warmup_{unit}" for unit in ("steps", "epochs", "images"))
COOLDOWN = tuple(f"optim.cooldown_{unit}" for unit in ("steps", "epochs", "images"))


@pytest.mark.parametrize("group", [TOTAL, WARMUP, COOLDOWN], ids=["total", "warmup", "cooldown"])
@pytest.mark.parametrize("in_file", range(3))
@pytest.mark.parametrize("by_flag", range(3))
def test_a_duration_by_a_flag_replaces_that_of_the_file_in_any_unit(group, in_file, by_flag):
    tree = file_of(models.spec("vit_s16"), **{group[in_file].replace(".", "__"): 30})
    resolved = config_lib.resolve(tree, {group[by_flag]: "60"})
    values = leaves(resolved)
    assert [values[path] for path in group] == [60 * (i == by_flag) for i in range(3)]
    assert {resolved.origins[path] for path in group} == {"flag"}


def test_a_duration_of_zero_by_a_flag_turns_it_off():
    tree = file_of(models.spec("vit_s16"), optim__warmup_epochs=5.0)
    optim = config_lib.resolve(tree, {"optim.warmup_steps": "0"}).config.optim
    assert (optim.warmup_steps, optim.warmup_epochs) == (0, 0.0)


def test_two_units_in_one_layer_both_stay(source):
    tree = file_of(models.spec("vit_s16"), total_epochs=2.0, total_steps=3)
    config = config_lib.resolve(tree).config  # and are refused when the run is planned
    assert (config.total_epochs, config.total_steps) == (2.0, 3)


# --- The model's name.


def test_a_name_by_a_flag_replaces_the_preset_of_the_file():
    tree = file_of(models.spec("deit3_s16", **{"block.drop_path": 0.3}))
    model = config_lib.resolve(tree, {"model.name": "vit_b16"}).config.model
    assert dict(model) == models.spec("vit_b16", **{"block.drop_path": 0.3}).to_dict()


def test_the_same_name_by_a_flag_changes_nothing():
    tree = file_of(models.spec("vit_mu4", width=64))
    resolved = config_lib.resolve(tree, {"model.name": "vit_mu4"})
    assert resolved.config.model["width"] == 64
    assert resolved.origins["model.name"] == "flag"


def test_a_model_of_another_family_keeps_only_head_and_regularization():
    fields = {"posemb": "sincos2d", "mlp.activation": "relu", "block.drop_path": 0.2}
    fields["num_classes"] = 7
    resolved = config_lib.resolve(
        file_of(models.spec("vit_s16", **fields)), {"model.name": "swin_t_w7"}
    )
    expected = models.spec("swin_t_w7", **{"block.drop_path": 0.2}, num_classes=7).to_dict()
    assert dict(resolved.config.model) == expected
    assert len(resolved.notes) == 2
    assert "is not used: swin_t_w7 is a swin, not a vit" in resolved.notes[0]


def test_the_weights_of_the_named_model_may_have_other_sizes(source):
    tree = file_of(models.spec("vit_mu4", num_classes=3))
    model = config_lib.resolve(tree, {"init_from": source}).config.model
    assert (model["width"], model["num_classes"]) == (16, 3)


@pytest.mark.parametrize(("in_file", "flag"), [("vit_ti16", None), ("", "vit_ti16")])
def test_another_model_than_that_of_the_weights_is_refused(in_file, flag, source):
    tree = file_of(models.spec(in_file) if in_file else None, init_from=source)
    message = (
        r"^config\.model\.name: vit_ti16 \(.*\) has depth 12, but .* holds a vit_mu4 with depth"
    )
    with pytest.raises(ConfigError, match=message):
        config_lib.resolve(tree, {"model.name": flag} if flag else None)


def test_images_of_other_channels_need_weights_that_are_adapted(source):
    resolved = config_lib.resolve(file_of(), {"init_from": source, "data.channels": "1"})
    assert len(resolved.config.data.mean) == len(resolved.config.data.std) == 1
    assert any(
        "config.data.channels is 1 (flag), not 3 (init_from" in note for note in resolved.notes
    )
    trained = config_lib.read_config(epath.Path(source))
    with pytest.raises(ConfigError, match=r"^config\.data\.channels: 1 \(flag\), but .* with 3 "):
        config_lib.fit_to_weights(resolved, source, trained)


# --- Trees of config files.


def test_a_replaced_section_sets_its_leaves_and_no_others():
    c = config_lib.to_config_dict(config_lib.Config())
    c.optim.learning_rate = 7.0
    c.optim = {"name": "sgd"}
    resolved = config_lib.resolve(c)
    assert resolved.config.optim == config_lib.Optim(name="sgd")
    assert f"{HERE}:" in resolved.origins["optim.name"]
    assert resolved.origins["optim.learning_rate"] == "default"


def test_spec_sets_its_arguments_and_the_preset_sets_the_rest():
    origins = config_lib.resolve(file_of(models.spec("vit_b16", pool="gap"))).origins
    assert origins["model.depth"] == "preset vit_b16"
    assert f"{HERE}:" in origins["model.pool.name"] and f"{HERE}:" in origins["model.name"]


def test_a_copy_of_a_tree_keeps_the_origins():
    resolved = config_lib.resolve(copy.deepcopy(file_of(models.spec("vit_b16"), seed=3)))
    assert resolved.config.seed == 3 and f"{HERE}:" in resolved.origins["seed"]


def test_a_plain_tree_sets_all_of_its_values():
    tree = ml_collections.ConfigDict({"seed": 3, "optim": {"name": "sgd"}})
    resolved = config_lib.resolve(tree)
    assert (resolved.config.seed, resolved.config.optim.name) == (3, "sgd")
    assert resolved.origins["seed"] == "config"


def test_arguments_of_config_count_as_set(source):
    config = config_lib.Config(
        seed=0,
        init_from=source,
        model={"name": "", "block": {"drop_path": 0.1}},
        data=config_lib.Data(mean=(0.5, 0.5, 0.5)),
        optim=config_lib.Optim(learning_rate=0.5),
    )
    resolved = config_lib.resolve(config_lib.to_config_dict(config))
    assert resolved.config.data.mean == (0.5, 0.5, 0.5)  # set, so that it wins over the weights
    assert resolved.config.data.std == (0.229, 0.224, 0.225)
    set_here = {path for path, origin in resolved.origins.items() if f"{HERE}:" in origin}
    assert set_here == {
        "seed",
        "init_from",
        "model.block.drop_path",
        "data.mean",
        "optim.learning_rate",
    }


def test_references_are_resolved_and_keep_their_origins():
    c = file_of(models.spec("vit_s16"), batch_size=24)
    c.eval.batch_size = c.get_ref("batch_size")
    resolved = config_lib.resolve(c.copy_and_resolve_references())
    assert resolved.config.eval.batch_size == 24
    assert f"{HERE}:" in resolved.origins["batch_size"]
    assert resolved.origins["seed"] == "default"


def test_a_flag_is_parsed_by_the_type_of_its_field_even_if_the_file_is_wrong():
    tree = file_of(models.spec("vit_s16"), batch_size="x", data__name=3, optim__freeze="a")
    flags = {"batch_size": "4", "data.name": "synthetic", "optim.freeze": "b,c"}
    config = config_lib.resolve(tree, flags).config
    assert (config.batch_size, config.data.name, config.optim.freeze) == (
        4,
        "synthetic",
        ("b", "c"),
    )


def test_a_key_that_is_not_text_is_refused():
    c = file_of(models.spec("vit_s16"))
    c.optim[3] = 4
    with pytest.raises(ConfigError, match=r"^config\.optim\.3: no such field"):
        config_lib.resolve(c)


def test_a_name_that_is_not_text_is_refused():
    with pytest.raises(ConfigError, match=r"^config\.model\.name: expected the name of a model"):
        config_lib.resolve(file_of({"name": 3}), {"model.name": "vit_ti16"})


def test_a_field_of_the_file_that_a_name_overrides_is_noted():
    tree = file_of(models.spec("vit_s16", dropout=0.2))
    resolved = config_lib.resolve(tree, {"model.name": "vit_b16_textbook"})
    (note,) = resolved.notes
    assert note.startswith("config.model.dropout is 0.1 (vit_b16_textbook, by flag), not 0.2 (")


def test_a_run_of_another_family_is_refused(tmp_path):
    first = config_lib.resolve(file_of(models.spec("vit_s16")))
    stored.write(epath.Path(tmp_path), first.config, first.origins)
    run = stored.read_layer_to_resume(epath.Path(tmp_path))
    with pytest.raises(
        ConfigError, match=r"^config\.model\.name: swin_t_w7 .* of a vit_s16 .*, a vit$"
    ):
        config_lib.resolve(file_of(models.spec("swin_t_w7")), run=run)


def test_an_invalid_value_in_a_file_is_reported_with_its_line():
    with pytest.raises(ConfigError, match=rf"^config\.seed: expected an integer, .* \(.*{HERE}:"):
        config_lib.resolve(file_of(models.spec("vit_s16"), seed="x"))


# --- Settings of a stored run.


def test_a_run_is_read_back_with_its_origins_but_for_the_mesh(tmp_path):
    tree = file_of(models.spec("vit_s16"), seed=3, mesh__fsdp=2)
    resolved = config_lib.resolve(tree, {"batch_size": "8"})
    folder = epath.Path(tmp_path)
    stored.write(folder, resolved.config, resolved.origins)
    assert config_lib.read_config(folder) == resolved.config
    again = config_lib.resolve(run=stored.read_layer_to_resume(folder))
    assert again.config == dataclasses.replace(resolved.config, mesh=config_lib.Mesh())
    assert again.origins["batch_size"] == "flag" and f"{HERE}:" in again.origins["seed"]
    assert stored.read_layer(folder)["seed"].origin == str(folder / "config.json")


@pytest.mark.parametrize("text", ["", "{", "[]", '{"seed": 3}'])
def test_invalid_origins_are_ignored(text, tmp_path):
    folder = epath.Path(tmp_path)
    resolved = config_lib.resolve(file_of(models.spec("vit_s16"), seed=3))
    stored.write(folder, resolved.config, resolved.origins)
    (folder / "origins.json").write_text(text)
    layer = stored.read_layer_to_resume(folder)
    assert layer["seed"] == (3, str(folder / "config.json"))


def test_a_resumed_run_keeps_values_that_are_not_set_again(source, tmp_path):
    first = config_lib.resolve(file_of(), {"init_from": source, "optim.b1": "0.8"})
    stored.write(epath.Path(tmp_path), first.config, first.origins)
    (pathlib.Path(source) / "config.json").unlink()  # the weights are not needed again
    run = stored.read_layer_to_resume(epath.Path(tmp_path))
    again = config_lib.resolve(file_of(), {"init_from": source}, run=run)
    assert again.config == first.config
    assert again.origins["model.mlp.activation"] == f"init_from {source}"
    assert again.notes == ("config.optim.b1 keeps the value of this run: 0.8 (flag)",)
    changed = config_lib.resolve(file_of(), {"optim.b1": "0.9"}, run=run)
    assert changed.config.optim.b1 == 0.9


def test_every_field_has_a_description():
    config = config_lib.Config()
    assert all(config_lib.describe(config).values())
    assert (
        config_lib.describe(config).keys() == config_lib.flatten(config_lib.as_dict(config)).keys()
    )


@pytest.mark.parametrize(
    ("origin", "is_set"),
    [
        ("flag", True),
        ("configs/x.py:12", True),
        ("defaults.py:3", True),
        ("plain.py", True),
        ("default", False),
        ("preset vit_s16", False),
        ("init_from weights/w:1", False),
        ("data digits/1.0.0:train", False),
        ("runs/x/config.json", False),
    ],
)
def test_was_set_is_true_for_flags_and_lines_of_files(origin, is_set):
    assert layers.was_set(origin) == is_set


def test_layers_are_merged_once_and_in_order():
    stack = [
        layers.from_values({"a": {"b": 1, "c": 2}}, "first"),
        layers.from_values({"a": {"b": 3}}, "second"),
    ]
    assert layers.merge(stack) == {"a.b": (3, "second"), "a.c": (2, "first")}


def test_config_json_is_plain(tmp_path):
    resolved = config_lib.resolve(file_of(models.spec("vit_s16")))
    stored.write(epath.Path(tmp_path), resolved.config, resolved.origins)
    values = json.loads((tmp_path / "config.json").read_text())
    assert values.keys() == config_lib.as_dict(resolved.config).keys()
