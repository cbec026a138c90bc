"""A part is a section of the config: its name, and the fields of the entry with that name."""

import dataclasses
import itertools
import json
import pathlib

import pytest
from etils import epath

from vit_jax import config as config_lib
from vit_jax import models
from vit_jax.config import stored
from vit_jax.config.printing import format_config
from vit_jax.errors import ConfigError
from vit_jax.models.layers.attention import ATTENTIONS
from vit_jax.settings.choices import own_fields

HERE = pathlib.Path(__file__).name
WINDOWED = {"name": "window", "window": (4, 4), "dropout": 0.1}


def file_of(model=None, **sections):
    """Returns the tree of a config file that sets these sections."""
    c = config_lib.to_config_dict(config_lib.Config())
    if model is not None:
        c.model = model
    for key, value in sections.items():
        c[key] = value
    return c


def windowed(name="vit_s16"):
    return file_of(models.spec(name, attention=WINDOWED))


def leaves(resolved):
    return config_lib.flatten(config_lib.as_dict(resolved.config))


def section(resolved, name="attention"):
    return dict(resolved.config.model[name])


def expected_section(name, **fields):
    own = own_fields(ATTENTIONS[name]).items()
    defaults = {key: declared.field.default for key, declared in own}
    return {"name": name, **defaults, **fields}


# --- A name can replace a section.


def in_file(value, *then):
    c = file_of(models.spec("vit_s16"))
    c.model.attention = value
    for key, inner in then:
        c.model.attention[key] = inner
    return c


WAYS = {
    "spec, name": file_of(models.spec("vit_s16", attention="window")),
    "spec, path": file_of(models.spec("vit_s16", **{"attention.name": "window"})),
    "spec, section": file_of(models.spec("vit_s16", attention={"name": "window"})),
    "file, name": in_file("window"),
    "file, section": in_file({"name": "window"}),
    "file, field": in_file({}, ("name", "window")),
    "Config, name": config_lib.to_config_dict(
        config_lib.Config(model={"name": "vit_s16", "attention": "window"})
    ),
    "Config, section": config_lib.to_config_dict(
        config_lib.Config(model={"name": "vit_s16", "attention": {"name": "window"}})
    ),
    "mapping, name": {"model": {"name": "vit_s16", "attention": "window"}},
    "mapping, section": {"model": {"name": "vit_s16", "attention": {"name": "window"}}},
}
FLAGS = [
    {"model.attention": "window"},
    {"model.attention.name": "window"},
    {"model.attention": "window", "model.attention.name": "window"},
]


@pytest.mark.parametrize("way", WAYS)
def test_a_name_can_replace_the_section_in_a_file(way):
    resolved = config_lib.resolve(WAYS[way])
    assert section(resolved) == expected_section("window")
    origin = resolved.origins["model.attention.name"]
    assert origin == "config" if way.startswith("mapping") else f"{HERE}:" in origin
    assert resolved.origins["model.attention.window"] == "preset vit_s16"
    assert resolved.notes == ()


@pytest.mark.parametrize("flags", FLAGS)
def test_a_name_can_replace_the_section_in_a_flag(flags):
    resolved = config_lib.resolve(file_of(models.spec("vit_s16")), flags)
    assert section(resolved) == expected_section("window")
    assert resolved.origins["model.attention.name"] == "flag"


def test_all_ways_make_the_same_config():
    configs = [config_lib.resolve(way).config for way in WAYS.values()]
    configs += [config_lib.resolve(file_of(models.spec("vit_s16")), f).config for f in FLAGS]
    assert all(config == configs[0] for config in configs)


@pytest.mark.parametrize("model", ["vit_b16", {"name": "vit_b16"}])
def test_model_optimizer_and_data_can_be_set_by_name(model):
    in_file = config_lib.resolve(file_of(model, optim="lion", data="synthetic"))
    mapping = config_lib.resolve({"model": model, "optim": "lion", "data": "synthetic"})
    flags = {"model": "vit_b16", "optim": "lion", "data": "synthetic"}
    by_flag = config_lib.resolve(file_of(), flags)
    assert in_file.config == mapping.config == by_flag.config
    assert leaves(by_flag)["model.width"] == 768
    for path, value in flags.items():
        assert leaves(by_flag)[f"{path}.name"] == value
        assert by_flag.origins[f"{path}.name"] == "flag"
        assert f"{HERE}:" in in_file.origins[f"{path}.name"]


@pytest.mark.parametrize(
    ("path", "names"),
    [
        ("model.attention", ("full", "window")),
        ("model", ("vit_s16", "vit_b16")),
        ("optim", ("sgd", "lion")),
    ],
)
def test_two_names_for_one_section_are_an_error(path, names):
    for first, second in itertools.permutations((path, f"{path}.name")):
        flags = {first: names[0], second: names[1]}
        with pytest.raises(ConfigError) as error:
            config_lib.resolve(file_of(models.spec("vit_s16")), flags)
        message = str(error.value)
        assert message.startswith(f"config.{path}: expected one name, got ")
        assert all(name in message for name in names)


# --- Fields of the chosen part.


def test_a_field_may_follow_the_name_in_a_file():
    resolved = config_lib.resolve(in_file("window", ("window", (4, 4))))
    assert section(resolved) == expected_section("window", window=(4, 4))
    resolved = config_lib.resolve(in_file({"name": "window", "window": (4, 4)}))
    assert section(resolved) == expected_section("window", window=(4, 4))


@pytest.mark.parametrize(
    "paths",
    [*itertools.permutations(("model.attention", "model.attention.window", "model.posemb"))],
    ids=" ".join,
)
def test_the_order_of_flags_does_not_matter(paths):
    texts = {"model.attention": "window", "model.attention.window": "4,4", "model.posemb": "rope"}
    resolved = config_lib.resolve(
        file_of(models.spec("vit_s16")), {path: texts[path] for path in paths}
    )
    assert section(resolved) == expected_section("window", window=(4, 4))
    assert section(resolved, "posemb") == {"name": "rope"}


@pytest.mark.parametrize("name", ATTENTIONS)
def test_a_flag_that_selects_another_part_drops_the_fields_of_the_old_one(name):
    resolved = config_lib.resolve(windowed(), {"model.attention": name})
    set_in_file = {"window": (4, 4), "dropout": 0.1}
    kept = {key: set_in_file[key] for key in set_in_file if key in own_fields(ATTENTIONS[name])}
    assert section(resolved) == expected_section(name, **kept)
    assert all(f"{HERE}:" in resolved.origins[f"model.attention.{key}"] for key in kept)
    dropped = sorted(set_in_file.keys() - kept.keys())
    for key, note in zip(dropped, resolved.notes, strict=True):
        assert note.startswith(f"config.model.attention.{key} (") and f"{HERE}:" in note
        assert note.endswith(f") is not used: {name} has no such field")


def test_a_flag_that_names_a_model_of_another_part_drops_them_too():
    tree = file_of(models.spec("vit_s16", **{"mlp.activation": "relu"}))
    resolved = config_lib.resolve(tree, {"model": "dinov2_g14", "data.image_size": "28,28"})
    assert section(resolved, "mlp") == {"name": "swiglu"}
    (note,) = resolved.notes
    assert note.startswith("config.model.mlp.activation (") and "swiglu has no such" in note


def test_a_file_that_chooses_a_part_keeps_it_where_a_flag_names_another_model():
    resolved = config_lib.resolve(windowed(), {"model": "vit_b16"})
    assert section(resolved) == expected_section("window", window=(4, 4), dropout=0.1)
    assert resolved.notes == ()


def test_a_file_may_set_fields_of_a_part_that_a_flag_selects():
    c = file_of(models.spec("vit_s16"))
    c.model.attention.window = (4, 4)
    resolved = config_lib.resolve(c, {"model.attention": "window"})
    assert section(resolved) == expected_section("window", window=(4, 4))


OF_WINDOWS = "it belongs to model.attention=window or dilated"


def test_a_flag_for_a_part_that_is_not_selected_is_refused():
    for tree in (file_of(models.spec("vit_s16")), file_of()):
        with pytest.raises(ConfigError) as error:
            config_lib.resolve(tree, {"model.attention.window": "4,4"})
        message = f"config.model.attention.window: auto has no such field; {OF_WINDOWS}"
        assert str(error.value) == message
    with pytest.raises(ConfigError, match=f": linear has no such field; {OF_WINDOWS}$"):
        config_lib.resolve(
            windowed(), {"model.attention.window": "4,4", "model.attention": "linear"}
        )


def test_a_field_of_a_part_that_is_not_selected_is_refused_with_its_line():
    c = file_of(models.spec("vit_s16"))
    c.model.attention.window = (4, 4)
    with pytest.raises(ConfigError, match=rf"^config\.model\.attention\.window: auto .*{HERE}:\d"):
        config_lib.resolve(c)
    with pytest.raises(ConfigError, match=f"{OF_WINDOWS} .config.$"):
        config_lib.resolve({"model": {"name": "vit_s16", "attention": {"window": (4, 4)}}})


@pytest.mark.parametrize(
    ("flags", "path", "entry"),
    [
        ({"model.attention": "fused"}, "attention.dropout", "fused"),
        ({"model.mlp": "swiglu"}, "mlp.activation", "swiglu"),
    ],
)
@pytest.mark.parametrize("by", ["flag", "file", "name"])
def test_a_stated_field_of_the_preset_that_the_part_lacks_gives_a_note(flags, path, entry, by):
    name = "vit_b16_textbook"
    parts = {key.removeprefix("model."): text for key, text in flags.items()}
    layers = {
        "flag": (file_of(models.spec(name)), flags),
        "file": (file_of(models.spec(name, **parts)), {}),
        "name": (file_of(models.spec("vit_s16", **parts)), {"model": name}),
    }
    resolved = config_lib.resolve(*layers[by])
    assert f"model.{path}" not in leaves(resolved)
    assert resolved.notes == (
        f"config.model.{path} (preset {name}) is not used: {entry} has no such field",
    )


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("model.patch", "vit_s16 has no such field; did you mean 'model.stem.patch'?"),
        ("model.drop_path", "vit_s16 has no such field; did you mean 'model.block.drop_path'?"),
        ("model.window", "vit_s16 has no such field; did you mean 'model.attention.window'?"),
        ("model.stem.pach", "vit_s16 has no such field; did you mean 'model.stem.patch'?"),
        ("model.attention.name.x", "vit_s16 has no such field; did you mean 'model.attention.nam"),
    ],
)
def test_a_field_is_found_in_its_part(path, message):
    with pytest.raises(ConfigError) as error:
        config_lib.resolve(file_of(), {path: "1"})
    assert str(error.value).startswith(f"config.{path}: {message}")


def test_an_unknown_part_is_reported_with_its_line_unless_a_flag_replaces_it():
    tree = in_file("widow")
    message = (
        rf"^config\.model\.attention\.name: unknown 'widow'; did you mean 'window'\? .*{HERE}:\d"
    )
    with pytest.raises(ConfigError, match=message):
        config_lib.resolve(tree)
    resolved = config_lib.resolve(tree, {"model.attention": "full"})
    assert section(resolved) == expected_section("full")
    with pytest.raises(ConfigError, match=r"'window'\? For your own, pass --import=MODULE$"):
        config_lib.resolve(file_of(), {"model.attention": "widow"})


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            {"model.attention": "window", "model.attention.window": "0,7"},
            "attention.window: expected at least 1, got 0",
        ),
        (
            {"model.attention": "window", "model.attention.window": "7"},
            "attention.window: expected 2 values (each an integer), got (7,)",
        ),
        (
            {"model.posemb": "relative_bias", "model.posemb.interpolation": "cubic"},
            "posemb.interpolation: unknown 'cubic'; did you mean 'bicubic'?",
        ),
        (
            {"model.posemb": "relative_bias", "model.attention": "linear"},
            "posemb.name: relative_bias adds a bias to the scores, which linear does not support; "
            "use attention=auto or full or fused or window or dilated",
        ),
    ],
)
def test_an_invalid_value_of_a_part_is_reported_with_its_path(flags, message):
    with pytest.raises(ConfigError) as error:
        config_lib.resolve(file_of(), flags)
    assert str(error.value) == f"config.model.{message}"


# --- Settings that are written and read back.


def test_config_json_has_full_sections(tmp_path):
    flags = {"model.posemb": "rope", "optim": "lion"}
    resolved = config_lib.resolve(windowed(), flags)
    stored.write(epath.Path(tmp_path), resolved.config, resolved.origins)
    values = json.loads((tmp_path / "config.json").read_text())
    assert values["model"]["attention"] == {
        **expected_section("window", dropout=0.1),
        "window": [4, 4],
    }
    assert values["model"]["posemb"] == {"name": "rope"}
    assert values["optim"]["name"] == "lion"
    for key in models.part_choices("vit_s16"):
        assert isinstance(values["model"][key], dict)
    origins = json.loads((tmp_path / "origins.json").read_text())
    assert origins.keys() == config_lib.flatten(values).keys()
    assert config_lib.resolve(values).config == resolved.config
    assert config_lib.read_config(epath.Path(tmp_path)) == resolved.config


@pytest.fixture
def run(tmp_path):
    """A config with parts that are set by file and flag, and its run folder."""
    flags = {"model.posemb": "rope", "model.stem": "conv"}
    resolved = config_lib.resolve(windowed(), flags)
    stored.write(epath.Path(tmp_path), resolved.config, resolved.origins)
    return resolved, epath.Path(tmp_path)


def test_a_run_that_is_resumed_keeps_its_parts(run):
    first, folder = run
    layer = stored.read_layer_to_resume(folder)
    flags = {"model.posemb": "rope", "model.stem": "conv"}
    for given in ((windowed(), flags), (windowed(), {}), (None, {})):
        again = config_lib.resolve(*given, run=layer)
        assert again.config == dataclasses.replace(first.config, mesh=config_lib.Mesh())
        assert again.origins["model.posemb.name"] == "flag"
        assert f"{HERE}:" in again.origins["model.attention.window"]
    notes = config_lib.resolve(windowed(), run=layer).notes
    assert notes == (
        "config.model.stem.name keeps the value of this run: 'conv' (flag)",
        "config.model.posemb.name keeps the value of this run: 'rope' (flag)",
    )


def test_a_run_that_is_evaluated_has_its_parts(run):
    first, folder = run
    again = config_lib.resolve(run=stored.read_layer(folder))
    assert (again.config, again.notes) == (first.config, ())
    assert set(again.origins.values()) == {str(folder / "config.json")}


def test_a_run_that_is_resumed_with_another_part_differs_in_its_fields(run):
    first, folder = run
    layer = stored.read_layer_to_resume(folder)
    changed = config_lib.resolve(windowed(), {"model.attention": "full"}, run=layer)
    old, new = (config_lib.as_dict(resolved.config) for resolved in (first, changed))
    assert config_lib.changed_keys(old, new) == [
        "model.attention.limit",
        "model.attention.mask_padding",
        "model.attention.name",
        "model.attention.pad_order",
        "model.attention.window",
    ]


def test_print_config_shows_each_field_of_each_part_once():
    resolved = config_lib.resolve(windowed("vit_b16_textbook"), {"model.mlp": "swiglu"})
    *lines, note = format_config(resolved)
    assert note.startswith("note: config.model.mlp.activation (preset vit_b16_textbook) is not u")
    shown = {line.partition(" = ")[0]: line for line in lines}
    assert list(shown) == list(leaves(resolved))
    own = own_fields(ATTENTIONS["window"])
    for path in [f"model.attention.{key}" for key in own]:
        assert f"[{resolved.origins[path]}]" in shown[path]
        assert shown[path].endswith(own[path.rpartition(".")[2]].help)
    assert "model.mlp.name = 'swiglu'" in shown["model.mlp.name"]
    assert shown["model.mlp.name"].endswith("feed-forward network: mlp, swiglu")
    assert "[flag]" in shown["model.mlp.name"]


# --- Pretrained weights.

UNNAMED = {"name": ""}


@pytest.fixture
def source(tmp_path):
    """The folder of a run with another attention than the preset."""
    fields = {**WINDOWED, "mask_padding": True, "qk_norm": True}
    tree = file_of(models.spec("vit_mu4", attention=fields, pool="gap"))
    tree.data.image_size = (16, 16)
    resolved = config_lib.resolve(tree)
    stored.write(epath.Path(tmp_path / "source"), resolved.config, resolved.origins)
    return str(tmp_path / "source")


@pytest.mark.parametrize("model", [UNNAMED, "vit_mu4", models.spec("vit_mu4")])
def test_parts_and_their_fields_are_inherited(model, source):
    resolved = config_lib.resolve(file_of(model), {"init_from": source})
    inherited = {"window": (4, 4), "mask_padding": True, "qk_norm": True}
    assert section(resolved) == expected_section("window", **inherited)  # dropout is not inherited
    for key in ("name", "window", "mask_padding", "qk_norm"):
        assert resolved.origins[f"model.attention.{key}"] == f"init_from {source}"
    assert resolved.origins["model.attention.dropout"] == "preset vit_mu4"
    assert (section(resolved, "pool")["name"], resolved.notes) == ("gap", ())


@pytest.mark.parametrize("by", ["flag", "file", "section"])
@pytest.mark.parametrize("name", ["auto", "dilated", "linformer"])
def test_another_attention_inherits_the_fields_that_it_has(name, by, source):
    model = {
        "flag": UNNAMED,
        "file": {**UNNAMED, "attention": name},
        "section": {**UNNAMED, "attention": {"name": name}},
    }
    flags = {"model.attention": name} if by == "flag" else {}
    resolved = config_lib.resolve(file_of(model[by]), {"init_from": source, **flags})
    shared = {"qk_norm": True, **({"window": (4, 4)} if name == "dilated" else {})}
    assert section(resolved) == expected_section(name, **shared)
    (note,) = resolved.notes
    assert note.startswith(f"config.model.attention.name is {name} (")
    assert note.endswith(f"), not window (init_from {source})")


def test_a_free_field_may_be_set_with_a_note(source):
    flags = {"init_from": source, "model.attention.window": "2,2"}
    resolved = config_lib.resolve(file_of(UNNAMED), flags)
    assert section(resolved)["window"] == (2, 2)
    assert resolved.notes == (
        f"config.model.attention.window is (2, 2) (flag), not (4, 4) (init_from {source})",
    )


@pytest.mark.parametrize(
    ("path", "value", "trained"),
    [
        ("posemb", "rope", "learned"),
        ("stem", "conv", "patch"),
        ("mlp", "swiglu", "mlp"),
        ("block", "post", "pre"),
    ],
)
def test_another_value_of_a_fixed_part_is_refused_with_both_origins(path, value, trained, source):
    for model, flags in ((UNNAMED, {f"model.{path}": value}), ({**UNNAMED, path: value}, {})):
        with pytest.raises(ConfigError) as error:
            config_lib.resolve(file_of(model), {"init_from": source, **flags})
        message = str(error.value)
        assert message.startswith(f"config.model.{path}.name: {value} (")
        assert ("(flag)" if flags else f"{HERE}:") in message
        assert message.endswith(
            f", but the weights were trained with {trained} (init_from {source})"
        )


def test_another_value_of_a_fixed_field_is_refused(source):
    flags = {"init_from": source, "model.attention.qk_norm": "false"}
    with pytest.raises(ConfigError, match=r"^config\.model\.attention\.qk_norm: False \(flag\)"):
        config_lib.resolve(file_of(UNNAMED), flags)


# --- A file that selects a part twice.


def derived(*more):
    """Returns the tree of a file that selects a part, sets its fields, and selects another part."""
    c = file_of(models.spec("vit_s16"))
    c.model.attention = "window"
    c.model.attention.window = (4, 4)
    c.model.attention.dropout = 0.1
    c.model.attention = "linformer"
    for key, value in more:
        c.model.attention[key] = value
    return c


def test_a_file_may_select_another_part_with_a_note():
    resolved = config_lib.resolve(derived(("landmarks", 16)))
    assert section(resolved) == expected_section("linformer", landmarks=16, dropout=0.1)
    (note,) = resolved.notes
    assert note.startswith("config.model.attention.window (tests/config/test_part_sections.py:")
    assert note.endswith(") is not used: linformer has no such field")
    copied = derived().copy_and_resolve_references()
    assert section(config_lib.resolve(copied)) == expected_section("linformer", dropout=0.1)


def test_a_file_that_sets_a_field_that_its_part_lacks_is_refused():
    message = "linformer has no such field; it belongs to model.attention=window or dilated"
    with pytest.raises(ConfigError, match=message):
        config_lib.resolve(derived(("window", (2, 2))))


def test_an_update_sets_names_and_fields():
    c = file_of(models.spec("vit_s16"))
    c.update({"model": {"attention": "window"}, "batch_size": 64})
    c.model.attention.update({"window": (4, 4)}, dropout=0.1)
    resolved = config_lib.resolve(c)
    assert section(resolved) == expected_section("window", window=(4, 4), dropout=0.1)
    assert resolved.config.batch_size == 64
    assert HERE in resolved.origins["model.attention.window"]


def test_a_field_that_a_class_does_not_declare_is_not_a_setting():
    with pytest.raises(
        ConfigError, match="out_dropout: not a setting of dilated; its class does not"
    ):
        config_lib.resolve(
            file_of(), {"model.attention": "dilated", "model.attention.out_dropout": "0.1"}
        )
