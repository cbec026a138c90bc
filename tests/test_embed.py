"""The command writes one row for each readable image, and a notebook gets the same."""

import jax.numpy as jnp
import numpy as np
import pytest
from conftest import TINY
from etils import epath
from PIL import Image

from vit_jax import config as config_lib
from vit_jax import embed as embed_lib
from vit_jax import models
from vit_jax import train as train_lib
from vit_jax.checkpoints.pretrained import from_pretrained
from vit_jax.console import cli
from vit_jax.data.sources.registry import open_split
from vit_jax.evaluation.embedding import read_embedding
from vit_jax.evaluation.pooling import Pooled


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A run with a moving average of its weights."""
    tree = config_lib.to_config_dict(config_lib.Config())
    extra = {"total_steps": "2", "optim.ema_decay": "0.5", "model.keep_class_token": "true"}
    extra |= {"model.pool": "gap", "model.depth": "2"}
    folder = tmp_path_factory.mktemp("run")
    train_lib.train(config_lib.resolve(tree, {**TINY, **extra}), epath.Path(folder))
    return folder


@pytest.fixture
def embed(workdir, tmp_path, capsys):
    """Returns a function that runs the command: code, stdout, stderr and the embedding."""

    def run(*arguments, output="e.npz"):
        path = tmp_path / output
        argv = ["embed", f"--workdir={workdir}", f"--output={path}", *arguments]
        parse = cli.parse_operands_and_overrides
        code = cli.run(embed_lib.main, embed_lib._flags(), "", argv, parse)
        found = read_embedding(epath.Path(path)) if path.is_file() else None
        return code, *capsys.readouterr(), found

    return run


@pytest.fixture
def pictures(tmp_path):
    """A folder of 37 images of different sizes, two of which cannot be read."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    generator = np.random.default_rng(0)
    for i in range(37):
        pixels = generator.integers(256, size=(8 + i, 9, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i:02}.png")
    for name in ("07.png", "36.png"):
        (folder / name).write_bytes(b"no image")
    return folder


def test_the_rows_of_a_split_are_the_input_of_the_head(workdir, embed):
    code, out, err, found = embed()
    assert (code, err) == (0, "")
    assert f"embed     {workdir}, step 2, on synthetic:test\n" in out
    assert "weights   the average of the weights (EMA)" in out
    assert "features  the input of the head: one vector, 16 values for each image\n" in out
    assert out.endswith("e.npz: 21 rows\n")
    run = from_pretrained(str(workdir))
    source = open_split(run.data, "test_split")
    images = run.preprocess([source[i]["image"] for i in range(21)])
    expected = models.forward(run.model, run.variables, images).features
    np.testing.assert_allclose(found.features, expected, atol=1e-5)
    assert found.labels.tolist() == [source[i]["label"] for i in range(21)]
    assert found.class_names == source.class_names
    assert (found.facts["step"], found.facts["weights"]) == (2, "ema")
    raw = embed("--weights=raw")[3]
    assert raw.facts["weights"] == "raw" and raw.facts["model"] != found.facts["model"]
    assert not np.allclose(raw.features, found.features)


def test_the_same_command_writes_the_same_bytes(embed, tmp_path):
    for output in ("e.npz", "e.parquet"):
        embed("--layer=blocks_0", "--pool=tokens", output=output)
        first = (tmp_path / output).read_bytes()
        _, _, _, found = embed("--layer=blocks_0", "--pool=tokens", output=output)
        assert (tmp_path / output).read_bytes() == first
        assert found.features.shape == (21, 5, 16)


def test_images_that_cannot_be_read_are_named_once_and_left_out(embed, pictures):
    code, out, err, found = embed(
        str(pictures), "--layer=blocks_1", "--pool=cls", output="e.parquet"
    )
    bad = [str(pictures / name) for name in ("07.png", "36.png")]
    assert code == 0 and "on 37 images\n" in out and "35 rows; 2 unreadable, left out\n" in out
    assert [err.count(f"{path}: cannot be read") for path in bad] == [1, 1]
    assert found.ids == tuple(str(p) for p in sorted(pictures.iterdir()) if str(p) not in bad)
    assert list(found.facts["skipped"]) == bad
    assert found.labels is None and found.class_names == ()
    assert found.indices.tolist() == [i for i in range(37) if i not in (7, 36)]


def test_a_notebook_gets_what_the_command_writes(workdir, embed, pictures):
    embedder = embed_lib.Embedder(workdir, layer="blocks_1", pool="mean", step="2")
    source = open_split(config_lib.read_config(epath.Path(workdir)).data, "test_split")
    paths = sorted(map(str, pictures.iterdir()))
    flags = ("--layer=blocks_1", "--pool=mean")
    for images, arguments in ((source, ()), (paths, paths)):
        mine, its = embedder(images), embed(*flags, *arguments)[3]
        np.testing.assert_array_equal(mine.features, its.features)
        np.testing.assert_array_equal(mine.labels, its.labels)
        assert (mine.ids, mine.facts) == (its.ids, its.facts)


def test_settings_of_the_run_may_be_changed(embed, pictures):
    path = str(pictures / "00.png")
    code, out, _, found = embed(path, "--config.data.image_size=16,16", "--pool=tokens")
    assert code == 0 and "note      config.data.image_size is (16, 16) (flag), not (8, 8)" in out
    assert found.features.shape == (1, 17, 16)
    assert embed("--split=test[:5]")[3].ids == tuple(f"synthetic:test[:5][{i}]" for i in range(5))


def test_the_values_do_not_depend_on_scan_remat_and_the_kernel(embed):
    first = embed("--layer=blocks_1", "--pool=tokens")[3]
    for flags in (
        ("--config.model.scan=true", "--config.model.remat=block"),
        ("--config.model.attention=full",),
        ("--config.model.attention=fused", "--config.model.remat=linear"),
    ):
        found = embed("--layer=blocks_1", "--pool=tokens", *flags)[3]
        np.testing.assert_allclose(found.features, first.features, atol=1e-6)
        assert found.facts == first.facts


def test_the_size_of_many_features_is_said_first(embed, monkeypatch):
    monkeypatch.setattr(embed_lib, "LARGE", 21 * 5 * 16 * 4)
    line = "memory    0.0 GB of features on each host, until they are written\n"
    assert line in embed("--pool=tokens", "--layer=blocks_0")[1]
    assert line not in embed()[1]


def test_features_that_are_not_finite_are_counted(embed, monkeypatch):
    def spoiled(self, variables, images):
        first = jnp.arange(len(images)) == 0
        return {"features": jnp.where(first, jnp.nan, 0.0)[:, None]}

    monkeypatch.setattr(Pooled, "__call__", spoiled)
    code, _, err, _ = embed()
    assert code == 0 and "features that are not finite in " in err


@pytest.mark.parametrize(
    ("arguments", "code", "line"),
    (
        (("--layer=blocks_7",), 64, "--layer: unknown 'blocks_7'; did you mean 'blocks_"),
        (("--pool=max",), 64, "--pool: unknown 'max'; choose from cls, mean, tokens"),
        (("a.png",), 66, "a.png: no such file"),
        (("a.png", "--step=9"), 66, "a.png: no such file"),
        ((__file__, "--split=test"), 64, "--split: expected a split or images, got both"),
        ((__file__,), 65, f"{__file__}: expected an image that can be read, found none"),
        (("--split=tset",), 64, "--split: "),
        (("--outpt=a.npz",), 64, "--outpt: no such flag; did you mean '--output'?"),
        (("--output=a.csv",), 64, "--output: expected a name that ends in .npz or .parquet, got"),
        (("--output=/proc/none/a.npz",), 73, "--output: cannot write /proc/none/a.npz ("),
    ),
)
def test_a_wrong_flag_is_one_line(embed, arguments, code, line):
    found, _, err, _ = embed(*arguments)
    assert (found, err.splitlines()[-1].partition(line)[0]) == (code, "error: ")
