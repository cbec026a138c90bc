"""The command writes a sheet for each image, and pictures of the model; what it lacks is said."""

import dataclasses

import numpy as np
import pytest
from conftest import ROOT
from golden_cases import FIXTURES, Case
from PIL import Image

from vit_jax import attend, convert, models
from vit_jax.attending.images import file_names
from vit_jax.checkpoints import from_pretrained
from vit_jax.console import cli
from vit_jax.errors import InputMissingError
from vit_jax.interpretation.heads import head_maps
from vit_jax.interpretation.hooks import attention_layers
from vit_jax.interpretation.relevance import relevance
from vit_jax.interpretation.rollout import rollout
from vit_jax.interpretation.weights import attention_maps

CASES = ("hf_dinov2_cls", "hf_dinov2_reg", "timm_swin_pad")


@pytest.fixture(scope="module")
def workdirs(tmp_path_factory):
    """Run folders of small weights, by the name of the case."""
    base = tmp_path_factory.mktemp("imported")
    for name in CASES:
        case = Case(FIXTURES / f"{name}.json")
        given = case.model
        named = {"source": case.source, "input": case.weights, "model": given.pop("name")}
        pairs = {**named, **given, "output": base / name}
        argv = ["convert", *(f"--{key}={value}" for key, value in pairs.items())]
        assert cli.run(convert.main, convert._flags(), "", argv, convert.parse_overrides) == 0
    return {name: base / name for name in CASES}


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Three images, two of one name and one that cannot be read."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for name in ("cat.png", "more/cat.jpg"):
        (folder / name).parent.mkdir(exist_ok=True)
        pixels = rng.integers(0, 256, (50, 60, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / name)
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 no more")
    return folder


def run(capsys, *argv):
    values = attend._flags()
    code = cli.run(attend.main, values, "", ["attend", *map(str, argv)], cli.parse_operands)
    return code, *capsys.readouterr()


def arrays(path):
    with np.load(path) as file:
        return dict(file)


def test_the_files_show_the_numbers_of_the_functions(workdirs, photos, tmp_path, capsys):
    workdir = workdirs["hf_dinov2_cls"]
    flags = ["--arrays", "--layers=all", "--size=42x56", "--class=3"]
    code, out, _ = run(capsys, f"--workdir={workdir}", photos, f"--output={tmp_path}", *flags)
    assert code == 0
    names = {"cat", "cat-2", "filters", "positions", "distances"}
    assert {path.name for path in tmp_path.iterdir()} == {
        f"{name}.{kind}" for name in names for kind in ("png", "npz")
    }
    lines = out.splitlines()
    assert sum(line.startswith("write     ") for line in lines) == 10
    assert [line for line in lines if line.startswith(f"skipped   {photos / 'broken.jpg'}: ")]
    for path in tmp_path.glob("*.png"):
        with Image.open(path) as image:
            assert image.convert("L").getextrema() > (0, 0)

    trained = from_pretrained(str(workdir))
    data = dataclasses.replace(trained.data, image_size=(42, 56))
    images = dataclasses.replace(trained, data=data).preprocess(
        [photos / "cat.png", photos / "more/cat.jpg"]
    )
    run_with = (trained.model, trained.variables)
    layers = attention_layers(trained.model)
    for i, name in enumerate(("cat", "cat-2")):
        image = images[i : i + 1]
        shown = arrays(tmp_path / f"{name}.npz")
        assert shown["image"].shape == (42, 56, 3) and shown["components"].shape == (3, 4, 3)
        maps = attention_maps(*run_with, image, layers)
        for layer in layers:
            (heads,) = head_maps(trained.model, layer, maps[layer])
            assert shown[layer].shape == (3, 3, 4)
            np.testing.assert_allclose(shown[layer], heads, atol=1e-6)
        np.testing.assert_allclose(shown["rollout"], rollout(*run_with, image).values[0], atol=1e-6)
        of_class = relevance(*run_with, image, [3]).values[0]
        np.testing.assert_allclose(shown["relevance"], of_class, rtol=1e-4)
    distances = arrays(tmp_path / "distances.npz")
    assert set(distances) == set(layers) and all(len(heads) == 3 for heads in distances.values())
    assert arrays(tmp_path / "positions.npz")["positions"].shape == (3, 4, 48)


def test_what_a_model_lacks_is_left_out_with_a_note(workdirs, photos, tmp_path, capsys):
    workdir = workdirs["hf_dinov2_reg"]
    where = [f"--workdir={workdir}", f"--output={tmp_path}", photos / "cat.png"]
    code, _, err = run(capsys, *where)
    reason = "relevance is of a class, but there is no head"
    assert code == 0 and f"note      no relevance: {reason}" in err.splitlines()
    names = {"cat.png", "filters.png", "positions.png", "distances.png"}
    assert {path.name for path in tmp_path.iterdir()} == names
    code, _, err = run(capsys, *where, "--maps=mean,relevance")
    assert (code, err) == (64, f"error: model.num_classes: {reason}\n")


def test_without_matplotlib_there_are_no_distances(workdirs, photos, tmp_path, capsys, monkeypatch):
    def figure_class():
        raise InputMissingError("cannot import Matplotlib")

    monkeypatch.setattr(attend, "figure_class", figure_class)
    where = [f"--workdir={workdirs['hf_dinov2_reg']}", f"--output={tmp_path}", photos / "cat.png"]
    code, out, err = run(capsys, *where, "--maps=mean,distances")
    assert (code, out, err) == (66, "", "error: cannot import Matplotlib\n")
    code, _, err = run(capsys, *where)
    assert code == 0 and "note      no distances: cannot import Matplotlib" in err.splitlines()
    names = {"cat.png", "filters.png", "positions.png"}
    assert {path.name for path in tmp_path.iterdir()} == names


def test_only_the_maps_that_are_named_are_drawn(workdirs, photos, tmp_path, capsys):
    flags = [f"--workdir={workdirs['timm_swin_pad']}", photos / "cat.png", "--arrays"]
    flags += ["--maps=mean,positions", "--layers=stages_0_1,stages_2_0", f"--output={tmp_path}"]
    code, out, _ = run(capsys, *flags)
    assert code == 0 and len(out.splitlines()) == 4
    shown = arrays(tmp_path / "cat.npz")
    assert {name: values.shape for name, values in shown.items() if name != "image"} == {
        "stages_0_1": (2, 16, 16),
        "stages_2_0": (8, 4, 4),
    }
    biases = arrays(tmp_path / "positions.npz")
    assert biases["stages_0_0"].shape == (2, 13, 13) and len(biases) == 6


def test_images_without_finite_maps_are_skipped(workdirs, photos, tmp_path, capsys, monkeypatch):
    forward = models.forward

    def broken(*args):
        output = forward(*args)
        return dataclasses.replace(output, tokens=np.nan * output.tokens)

    monkeypatch.setattr(models, "forward", broken)
    image = photos / "cat.png"
    code, out, err = run(
        capsys, f"--workdir={workdirs['hf_dinov2_cls']}", image, f"--output={tmp_path}"
    )
    assert code == 65 and out == f"skipped   {image}: the output of the model is not finite\n"
    assert err.endswith("error: there is no map of any image\n")


def test_names_of_files_are_unique_and_plain():
    paths = ["a/cat.png", "b/Cat.jpg", "cat-2.png", "filters.png", "a b:c.png", "c/cat.png"]
    names = file_names(paths)
    assert names == ["cat", "Cat-2", "cat-2-2", "filters-2", "a_b_c", "cat-3"]


def test_no_file_is_written_over_an_image(workdirs, photos, tmp_path, capsys):
    original = (photos / "cat.png").read_bytes()
    (tmp_path / "link").symlink_to(tmp_path)
    for name in ("cat.png", "filters.png"):
        (tmp_path / name).write_bytes(original)
        for folder in (tmp_path, tmp_path / "link"):
            where = [f"--workdir={workdirs['hf_dinov2_cls']}", f"--output={folder}"]
            code, out, err = run(capsys, *where, tmp_path / name)
            assert (code, out) == (64, "")
            assert f"{folder / name} is one of them and would be replaced" in err
        assert (tmp_path / name).read_bytes() == original


def test_a_link_of_the_name_of_a_picture_is_replaced(workdirs, photos, tmp_path, capsys):
    other = tmp_path / "other.txt"
    other.write_text("precious")
    (tmp_path / "maps").mkdir()
    for kind in ("png", "npz"):
        (tmp_path / f"maps/cat.{kind}").symlink_to(other)
    where = [f"--workdir={workdirs['hf_dinov2_cls']}", f"--output={tmp_path / 'maps'}"]
    code, _, _ = run(capsys, *where, photos / "cat.png", "--maps=mean", "--arrays")
    assert code == 0 and other.read_text() == "precious"
    assert sorted(path.name for path in (tmp_path / "maps").iterdir()) == ["cat.npz", "cat.png"]
    assert not any(path.is_symlink() for path in (tmp_path / "maps").iterdir())


@pytest.mark.parametrize("name", ["file/maps", "/proc/maps"])
def test_a_folder_that_cannot_be_made_is_found_before_the_work(
    workdirs, photos, tmp_path, capsys, name
):
    (tmp_path / "file").write_text("no folder")
    where = [f"--workdir={workdirs['hf_dinov2_cls']}", f"--output={tmp_path / name}"]
    code, out, err = run(capsys, *where, photos / "cat.png")
    message = f"error: --output: cannot write to {tmp_path / name} ("
    assert (code, out) == (73, "") and err.splitlines()[-1].startswith(message)


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        (["--workdir="], 64, "--workdir: expected the work directory of a run"),
        (["--output="], 64, "--output: expected a folder for the pictures"),
        ([f"--output={ROOT / 'README.md'}"], 64, "--output: expected a folder, got the file "),
        (["--maps=head"], 64, "--maps: unknown 'head'; did you mean 'heads'?"),
        (["--layers=block_1"], 64, "--layers: unknown 'block_1'; did you mean 'blocks_1'?"),
        (["--class=dog"], 64, "--class: unknown 'dog'; the model has 6 classes, such as 0, 1, 2"),
        (["--size=3 x 4"], 64, "--size: expected HEIGHTxWIDTH, such as 448x336, got 3 x 4"),
        (
            ["--size=224x225"],
            64,
            "--size: expected multiples of 14x14 pixels, got 224x225; 224x224 is near",
        ),
        (["--step=7"], 66, "--step=7: no such checkpoint"),
        (["nowhere.jpg"], 66, "nowhere.jpg: no such file"),
        (["--nosuch"], 64, "--nosuch: no such flag"),
    ],
)
def test_a_wrong_flag_is_one_line(workdirs, photos, tmp_path, capsys, flags, code, message):
    images = [] if flags == ["nowhere.jpg"] else [photos / "cat.png"]
    where = [f"--workdir={workdirs['hf_dinov2_cls']}", f"--output={tmp_path / 'maps'}"]
    got, _, err = run(capsys, *where, *images, *flags)
    assert (got, err.splitlines()[-1][: len(message) + 7]) == (code, f"error: {message}")
    assert not (tmp_path / "maps").exists()


def test_the_command_names_every_map_in_its_help():
    for name in (*attend.OF_IMAGES, *attend.OF_MODEL):
        assert name in attend.__doc__ and f"`{name}`" in (ROOT / "docs/attend.md").read_text()
