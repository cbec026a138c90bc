"""The convert command: import, export, and one line for each error."""

import json
import shutil

import jax.numpy as jnp
import numpy as np
import pytest
from conftest import TINY, resolved
from etils import epath
from golden_cases import FIXTURES, Case, cases
from PIL import Image

from vit_jax import config as config_lib
from vit_jax import convert, evaluate, models, predict, train
from vit_jax.checkpoints import from_pretrained
from vit_jax.console import cli
from vit_jax.conversion.libraries import list_libraries
from vit_jax.weights import files
from vit_jax.weights.folder import open_weights

FORMATS = {"google": ".npz", "big_vision": ".npz", "timm": ".safetensors", "huggingface": ""}


def case(name):
    return Case(FIXTURES / f"{name}.json")


def run(capsys, *argv):
    code = cli.run(
        convert.main, convert._flags(), "", ["convert", *map(str, argv)], convert.parse_overrides
    )
    return code, *capsys.readouterr()


def flags_of(given, **changes):
    flags = {**given.model, **changes}
    named = {"source": given.source, "input": given.weights, "model": flags.pop("name")}
    return [f"--{key}={value}" for key, value in {**named, **flags}.items()]


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    """Returns a function from the name of a case to its run folder."""
    base = tmp_path_factory.mktemp("imported")

    def folder(name):
        output = base / name
        if not output.exists():
            argv = ["convert", *flags_of(case(name)), f"--output={output}"]
            assert cli.run(convert.main, convert._flags(), "", argv, convert.parse_overrides) == 0
        return output

    return folder


@pytest.fixture
def pictures(tmp_path):
    """Five images in two class folders."""
    rng = np.random.default_rng(0)
    for i, label in enumerate(["LABEL_0", "LABEL_1", "LABEL_1", "LABEL_0", "LABEL_1"]):
        (tmp_path / "pictures" / label).mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 255, (40 + i, 50, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "pictures" / label / f"{i}.png")
    return tmp_path / "pictures"


def arrays(path):
    file, documents = open_weights(path)
    with file:
        return {name: file.read(name) for name in file.headers}, documents


def assert_same_arrays(there, back):
    assert there.keys() == back.keys()
    for name in there:
        assert (there[name].dtype, there[name].shape) == (back[name].dtype, back[name].shape)
        assert there[name].tobytes() == back[name].tobytes()


# --- There and back.

ONE_OF_EACH = ["google_r26_vit", "bv_siglip_scan", "timm_dinov2_reg_swiglu", "hf_dinov2_cls"]


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_weights_come_back_as_they_came(name, imported, tmp_path, capsys):
    given = case(name)
    output = tmp_path / f"back{FORMATS[given.source]}"
    code, _, err = run(
        capsys, f"--to={given.source}", f"--input={imported(name)}", f"--output={output}"
    )
    assert (code, err) == (0, "")
    assert_same_arrays(arrays(given.weights)[0], arrays(output)[0])


def test_documents_of_hugging_face_come_back_with_the_same_meaning(imported, tmp_path, capsys):
    given = case("hf_vit_eps")
    run(capsys, "--to=huggingface", f"--input={imported(given.name)}", f"--output={tmp_path / 'x'}")
    _, before = arrays(given.weights)
    _, after = arrays(tmp_path / "x")
    for name, document in before.items():
        for key, value in after[name].items():
            assert document.get(key, value) == value, (name, key)
    assert {"hidden_act", "layer_norm_eps", "id2label"} <= after["config.json"].keys()


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_a_kind_of_file_is_chosen_by_its_suffix(suffix, imported, tmp_path, capsys):
    folder = imported("timm_vit_eps")
    output = tmp_path / f"w{suffix}"
    code, out, _ = run(capsys, "--to=timm", f"--input={folder}", f"--output={output}")
    assert code == 0 and "a single file has no config.json" in out
    assert_same_arrays(arrays(case("timm_vit_eps").weights)[0], arrays(output)[0])


def test_a_trained_run_goes_out_and_comes_in_again(tiny_config, tmp_path, capsys):
    config = tiny_config({"data.channels": "3", "data.mean": ".5,.5,.5", "data.std": ".2,.2,.2"})
    train.train(resolved(config), epath.Path(tmp_path / "run"))
    out = tmp_path / "timm"
    back = tmp_path / "back"
    assert run(capsys, "--to=timm", f"--input={tmp_path / 'run'}", f"--output={out}")[0] == 0
    sizes = [f"--model.{key}={TINY[f'model.{key}']}" for key in ("width", "num_heads", "mlp_dim")]
    argv = ["--source=timm", f"--input={out}", "--model=vit_mu4", *sizes, f"--output={back}"]
    assert run(capsys, *argv)[0] == 0
    first, second = (from_pretrained(str(path)) for path in (tmp_path / "run", back))
    assert (second.class_names, second.data.mean) == (first.class_names, first.data.mean)
    images = jnp.asarray(np.random.default_rng(0).normal(size=(2, 8, 8, 3)), jnp.float32)
    logits = [models.forward(p.model, p.variables, images).logits for p in (first, second)]
    np.testing.assert_array_equal(*logits)


# --- A run folder like any other.


def test_what_came_with_the_weights_is_in_the_config(imported):
    config = config_lib.read_config(epath.Path(imported("hf_vit_eps")))
    assert (config.model["norm_eps"], config.model["mlp"]["activation"]) == (1e-12, "gelu")
    assert config.model["posemb"]["interpolation"] == "bicubic_torch"
    assert (config.data.fit, config.data.interpolation) == ("squash", "bilinear")
    assert config.data.image_size == (32, 32)


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("google_vit_token_rep", {"mlp.activation": "gelu_tanh", "posemb.interpolation": "spline"}),
        ("bv_tok", {"mlp.activation": "gelu_tanh", "posemb.prefix": False}),
        ("timm_deit3", {"mlp.activation": "gelu", "posemb.interpolation": "bicubic"}),
        ("timm_hybrid_r50", {"stem.weight_standardization": "variance", "stem.norm_eps": 1e-5}),
        ("google_r26_vit", {"stem.weight_standardization": "std", "stem.norm_eps": 1e-6}),
        ("hf_dinov2_reg", {"posemb.interpolation": "bicubic", "posemb.antialias": True}),
    ],
)
def test_every_source_has_its_own_numerics(name, fields, imported):
    model = config_lib.flatten(config_lib.read_config(epath.Path(imported(name))).model)
    assert {key: model[key] for key in fields} == fields


def test_predict_and_evaluate_take_it(imported, pictures, tmp_path, capsys):
    folder = shutil.copytree(imported("hf_vit_eps"), tmp_path / "run")
    names = [f"LABEL_{i}" for i in range(2, 10)]
    for name in names:
        (pictures / name).mkdir()
        Image.new("RGB", (32, 32)).save(pictures / name / "0.png")
    argv = ["predict", f"--workdir={folder}", str(pictures / "LABEL_0"), "--topk=1"]
    assert cli.run(predict.main, predict._flags(), "", argv, cli.parse_operands) == 0
    assert "% " in capsys.readouterr().out
    argv = ["evaluate", f"--workdir={folder}", f"--config.data.root={pictures}", "--split=train"]
    assert cli.run(evaluate.main, evaluate._flags(), "", argv) == 0
    assert '"count": ' in capsys.readouterr().out


def test_classes_that_nobody_named_are_those_of_the_data_where_they_are_as_many(
    imported, pictures, capsys
):
    folder = imported("hf_vit_eps")  # which names them LABEL_0 and so on: no names
    assert from_pretrained(str(folder)).class_names == tuple("0123456789")
    argv = ["evaluate", f"--workdir={folder}", f"--config.data.root={pictures}", "--split=train"]
    assert cli.run(evaluate.main, evaluate._flags(), "", argv) == 64
    assert "has 2 classes, the model 10" in capsys.readouterr().err


def test_a_model_without_classes_predicts_nothing(imported, pictures, capsys):
    argv = ["predict", f"--workdir={imported('bv_siglip_scan')}", str(pictures)]
    assert cli.run(predict.main, predict._flags(), "", argv, cli.parse_operands) == 64
    assert "has a model without classes" in capsys.readouterr().err


def test_evaluate_asks_for_images_where_none_are_named(imported, capsys):
    argv = ["evaluate", f"--workdir={imported('hf_vit_eps')}"]
    assert cli.run(evaluate.main, evaluate._flags(), "", argv) == 64
    assert "config.data.root: expected a folder of images" in capsys.readouterr().err


def test_preprocessing_gives_what_the_model_takes(imported, pictures):
    pretrained = from_pretrained(str(imported("hf_vit_eps")))
    paths = sorted(pictures.rglob("*.png"))
    images = pretrained.preprocess(paths)
    pixels = [np.asarray(Image.open(p).resize((32, 32), Image.Resampling.BILINEAR)) for p in paths]
    expected = np.float32(pixels) / 255 * 2 - 1
    np.testing.assert_allclose(images, expected, atol=1e-6)


def test_nobody_trains_in_it(imported, tiny_config):
    folder = epath.Path(imported("hf_vit_eps"))
    with pytest.raises(convert.ConfigError, match="contains weights only, no optimizer"):
        train.train(resolved(tiny_config()), folder)


def test_labels_come_from_a_file(tmp_path, capsys):
    given = case("timm_vit_eps")
    labels = tmp_path / "labels.txt"
    labels.write_text("".join(f"kind {i}\n" for i in range(10)))
    argv = [*flags_of(given), f"--labels={labels}", f"--output={tmp_path / 'run'}"]
    assert run(capsys, *argv)[0] == 0
    assert from_pretrained(str(tmp_path / "run")).class_names[3] == "kind 3"


def test_flags_change_the_model_and_the_images(tmp_path, capsys):
    given = case("timm_vit_eps")
    argv = [*flags_of(given), "--data.crop_fraction=0.5", "--data.image_size=48,64"]
    argv.append("--model.head_bias=1")
    code, out, _ = run(
        capsys, *argv, "--model.posemb.antialias=false", f"--output={tmp_path / 'r'}"
    )
    assert code == 0 and "posemb/grid resampled from 4x4 to 6x8" in out
    config = config_lib.read_config(epath.Path(tmp_path / "r"))
    assert (config.data.crop_fraction, config.data.image_size) == (0.5, (48, 64))
    assert config.model["posemb"]["antialias"] is False


# --- What is wrong.


def timm_flags(tmp_path, **changes):
    flags = flags_of(case("timm_vit_eps"), output=tmp_path / "out")
    named = {flag.partition("=")[0].lstrip("-"): flag.partition("=")[2] for flag in flags}
    named = {**named, **changes}
    return [f"--{key}={value}" for key, value in named.items() if value is not None]


@pytest.mark.parametrize(
    ("changes", "code", "said"),
    [
        ({"source": "tim"}, 64, "--source: unknown 'tim'; did you mean 'timm'?"),
        ({"source": None}, 64, "--source: give --source to import weights, or --to"),
        ({"to": "timm"}, 64, "--source: give --source"),
        ({"input": None}, 64, "--input: expected a path"),
        ({"input": "nowhere.npz"}, 66, "nowhere.npz: no such file or folder"),
        ({"output": None}, 64, "--output: expected a path"),
        ({"output": "gs://bucket/b16"}, 64, "--output: expected a local path"),
        ({"model": None}, 64, "--model: expected the name of a model"),
        ({"model": "vit_b61x"}, 64, "config.model.name: unknown 'vit_b61x'"),
        (
            {"model.widht": "3"},
            64,
            "model.widht: vit_ti16 has no such field; did you mean 'model.width'?",
        ),
        ({"config.seed": "3"}, 64, "--config.seed: no such flag"),
        ({"data.image_size": "33,32"}, 64, "config.data.image_size: height 33 is not a multiple"),
        ({"labels": "nowhere"}, 64, "--labels: cannot read nowhere"),
        ({"model.depth": "3"}, 65, "blocks.2.attn.proj.bias is missing, expected 48"),
        ({"model.num_registers": "1"}, 65, "reg_token is missing, expected 1x1x48"),
        (
            {"model.attention.qk_norm": "true"},
            65,
            "blocks.*.attn.k_norm.bias is missing, expected 16",
        ),
        ({"source": "google"}, 65, "try another --source"),
        ({"source": "huggingface"}, 65, "config.json: no such file beside the weights"),
    ],
)
def test_a_wrong_flag_is_one_line_and_nothing_is_written(changes, code, said, tmp_path, capsys):
    found, _, err = run(capsys, *timm_flags(tmp_path, **changes))
    assert (found, err.count("\n")) == (code, 1), err
    assert said in err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "model", "code", "said"),
    [
        ("timm_swin_eps", "vit_b16", 65, "attn.proj.bias (32) is an unexpected key"),
        ("timm_swinv2_eps", "deit_b16", 65, "attn.logit_scale (2x1x1) is an unexpected"),
        ("timm_vit_eps", "swin_t_w7", 65, "cls_token (1x1x48) is an unexpected key"),
        ("hf_swin_eps", "vit_b16", 65, "or dinov2_with_registers for this --model, got"),
        ("hf_vit_eps", "swin_t_w7", 65, "expected swin or swinv2 for this --model, got"),
        (
            "google_vit_token_linen",
            "swin_t_w7",
            64,
            "google has no weights of the family swin (swin_t_w7); choose from timm, huggingface",
        ),
    ],
)
def test_weights_of_another_family_are_refused_in_one_line(
    name, model, code, said, tmp_path, capsys
):
    given = case(name)
    argv = [f"--source={given.source}", f"--input={given.weights}", f"--model={model}"]
    found, _, err = run(capsys, *argv, f"--output={tmp_path / 'out'}")
    assert (found, err.count("\n")) == (code, 1), err
    assert said in err
    assert not list(tmp_path.iterdir())


def test_what_is_there_already_is_not_touched(imported, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    code, _, err = run(capsys, *timm_flags(tmp_path))
    assert code == 73 and "already exists; give another --output" in err
    folder = imported("timm_vit_eps")
    (tmp_path / "w.npz").write_text("mine")
    code, *_ = run(capsys, "--to=timm", f"--input={folder}", f"--output={tmp_path / 'w.npz'}")
    assert code == 73 and (tmp_path / "w.npz").read_text() == "mine"


@pytest.mark.parametrize(
    ("name", "to", "said"),
    [
        ("timm_deit3", "google", "blocks_*/scale*/scale (64) has no name there (4 times)"),
        ("timm_deit_distilled", "big_vision", "dist_token (1x48) has no name there"),
        ("bv_map", "huggingface", "pool/attn/q/kernel"),
        ("bv_tok", "google", "config.model.posemb.prefix: google computes with"),
        ("hf_dinov2_cls", "timm", "config.model.pool.name: timm has no pool cls_gap"),
        ("timm_vit_gap_cls", "huggingface", "fc_norm/bias (48) has no name there"),
    ],
)
def test_what_a_library_has_not_is_not_written_for_it(name, to, said, imported, tmp_path, capsys):
    argv = [f"--to={to}", f"--input={imported(name)}", f"--output={tmp_path / 'out'}"]
    code, _, err = run(capsys, *argv)
    assert (code, err.count("\n")) == (65, 1), err
    assert said in err
    assert not list(tmp_path.iterdir())


def test_numbers_that_a_library_computes_otherwise_are_said(imported, tmp_path, capsys):
    folder = imported("google_vit_token_linen")
    code, out, _ = run(capsys, "--to=timm", f"--input={folder}", f"--output={tmp_path / 'out'}")
    assert code == 0
    assert "timm computes with posemb.interpolation=bicubic, this model with posemb." in out
    assert "computes with mlp.activation" not in out  # which the document states
    document = json.loads((tmp_path / "out" / "config.json").read_text())
    assert document["model_args"]["act_layer"] == "gelu_tanh"


def damaged(tmp_path, change):
    """Returns the flags for weights whose arrays are changed."""
    given = case("timm_vit_eps")
    found, _ = arrays(given.weights)
    change(found)
    headers = {name: files.Header(array.shape, array.dtype) for name, array in found.items()}
    files.write_file(tmp_path / "in" / "w.safetensors", headers, found.__getitem__)
    return timm_flags(tmp_path, input=str(tmp_path / "in" / "w.safetensors"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda a: a.pop("norm.bias"), "norm.bias is missing, expected 48"),
        (lambda a: a.update(extra=a["norm.bias"]), "extra (48) is an unexpected key"),
        (lambda a: a.update({"norm.bias": a["norm.bias"][:-1]}), "norm.bias is 47, expected 48"),
    ],
)
def test_weights_of_another_model_are_one_line(change, said, tmp_path, capsys):
    code, _, err = run(capsys, *damaged(tmp_path, change))
    assert (code, err.count("\n")) == (65, 1)
    assert said in err and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ("{", "config.json: not valid JSON"),
        ("[" * 100_000, "config.json: not valid JSON"),
        ("3", "config.json: expected a JSON object"),
        (
            {"model_type": "bert"},
            "dinov2 or dinov2_with_registers for this --model, got 'bert'",
        ),
        ({"model_type": 3}, "model_type: expected str, got 3"),
        ({"hidden_act": "mish"}, "hidden_act: expected one of gelu"),
        ({"layer_norm_eps": None}, "layer_norm_eps: expected"),
        ({"num_attention_heads": 4}, "--model.num_heads: "),
    ],
)
def test_a_wrong_document_is_one_line(document, said, tmp_path, capsys):
    given = case("hf_vit_eps")
    folder = shutil.copytree(given.weights, tmp_path / "in")
    if isinstance(document, dict):
        before = json.loads((folder / "config.json").read_text())
        document = json.dumps({**before, **document})
    (folder / "config.json").write_text(document)
    argv = [flag for flag in flags_of(given) if not flag.startswith("--input")]
    code, _, err = run(capsys, *argv, f"--input={folder}", f"--output={tmp_path / 'out'}")
    assert code in (64, 65) and err.count("\n") == 1
    assert said in err and not (tmp_path / "out").exists()


@pytest.mark.parametrize("placeholders", [None, {"stem": "{i.__class__}"}])
def test_names_of_the_origin_that_are_none_are_refused(placeholders, imported, tmp_path, capsys):
    folder = shutil.copytree(imported("timm_vit_eps"), tmp_path / "run")
    origin = {"source": "timm", "placeholders": placeholders}
    (folder / "origin.json").write_text(json.dumps(origin))
    code, _, err = run(capsys, "--to=timm", f"--input={folder}", f"--output={tmp_path / 'out'}")
    assert code == 65 and "origin.json: placeholders: expected a name" in err


def test_a_library_without_a_package_has_nothing_to_compare_with(tmp_path, capsys):
    given = case("google_vit_token_linen")
    code, _, err = run(capsys, *flags_of(given), "--check", f"--output={tmp_path / 'out'}")
    assert code == 64 and "--check: google has no package to compare with" in err


def test_from_the_command_line(run_command, tmp_path):
    given = case("timm_vit_eps")
    done = run_command("convert", *flags_of(given), "--output=run")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == "write     run"
    assert (tmp_path / "run" / "config.json").is_file()


def test_every_library_has_a_case():
    assert {Case(path).source for path in cases()} == set(list_libraries())


def test_the_config_of_converted_weights_is_a_config(imported):
    content = json.loads((imported("timm_deit3") / "config.json").read_text())
    assert config_lib.resolve(content).config.model["block"]["layer_scale"] > 0
