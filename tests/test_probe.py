"""The probe command measures probes of a run's features, or of embeddings in files."""

import json
import sys

import jax
import numpy as np
import pytest
from conftest import TINY
from etils import epath
from golden_cases import FIXTURES, Case
from PIL import Image
from sklearn.neighbors import KNeighborsClassifier

from vit_jax import config as config_lib
from vit_jax import convert, probe
from vit_jax import train as train_lib
from vit_jax.checkpoints import from_pretrained
from vit_jax.cluster import sharding
from vit_jax.console import cli
from vit_jax.data.sources.registry import open_split
from vit_jax.evaluation.embedding import SourceEmbedder, write_embedding

SPLITS = {
    "data.name": "digits",
    "data.train_split": "train[:96]",
    "data.val_split": "train[96:130]",
    "data.test_split": "test[:37]",
}
FEW = ("--probes=knn,weighted_knn,ridge,few_shot", "--shots=1,5", "--seeds=2")


def run_probe(capsys, *argv):
    code = cli.run(probe.main, probe._flags(), "", ["probe", *map(str, argv)])
    return code, *capsys.readouterr()


def results_of(out):
    return json.loads(out.splitlines()[-1])


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A run of two steps on some of the digits."""
    tree = config_lib.to_config_dict(config_lib.Config())
    settings = config_lib.resolve(tree, {**TINY, **SPLITS, "total_steps": "2"})
    path = tmp_path_factory.mktemp("run")
    train_lib.train(settings, epath.Path(path))
    return path


@pytest.fixture(scope="module")
def embeddings(workdir, tmp_path_factory):
    """The embeddings of the splits, and their files, by name."""
    run = from_pretrained(str(workdir))
    config = config_lib.read_config(epath.Path(workdir))
    embed = SourceEmbedder(run, config, sharding.make_mesh(devices=jax.devices()[:1]))
    found, files = {}, {}
    for name in ("train", "val", "test"):
        found[name] = embed(open_split(config.data, f"{name}_split"))
        files[name] = epath.Path(tmp_path_factory.mktemp("files")) / f"{name}.npz"
        write_embedding(files[name], found[name])
    return found, files


def test_it_probes_the_features_of_the_run(workdir, embeddings, capsys):
    code, out, _ = run_probe(capsys, f"--workdir={workdir}", *FEW)
    assert code == 0
    report = results_of(out)
    found = report["probe"]
    train, test = embeddings[0]["train"], embeddings[0]["test"]
    nearest = KNeighborsClassifier(20, metric="cosine").fit(train.features, train.labels)
    expected = (nearest.predict(test.features) == test.labels).mean()
    top1 = found["results"]["knn"]["top1"]
    assert 0.2 < top1["value"] == expected and top1["low"] < expected < top1["high"]
    counts = {name: part["count"] for name, part in found["images"].items()}
    assert counts == {"train": 96, "val": 34, "test": 37}
    assert (report["step"], found["split"], found["weights"]) == (2, "test", "")
    assert list(found["results"]) == ["knn", "weighted_knn", "ridge", "few_shot"]
    assert list(found["results"]["few_shot"]["shots"]) == ["1", "5"]
    assert f"knn: top-1 {expected:.2%} [" in out and "the best on digits" in out
    assert json.loads((workdir / "evaluations" / "2-probe-test.json").read_text()) == report


def test_files_give_the_results_of_the_run(workdir, embeddings, capsys, tmp_path):
    _, out, _ = run_probe(capsys, f"--workdir={workdir}", *FEW)
    output = tmp_path / "probes" / "result.json"
    files = [f"--{name}={path}" for name, path in embeddings[1].items()]
    code, again, _ = run_probe(capsys, *files, *FEW, f"--output={output}")
    assert code == 0
    assert results_of(again)["probe"]["results"] == results_of(out)["probe"]["results"]
    assert results_of(again)["step"] == 2
    assert json.loads(output.read_text()) == results_of(again)


@pytest.mark.parametrize(
    "flags", [("--split=val",), ("--split=test", "--config.data.val_split=test[36:60]")]
)
def test_the_images_to_predict_never_choose_the_penalty(workdir, capsys, tmp_path, flags):
    output = f"--output={tmp_path / 'result.json'}"
    code, out, _ = run_probe(capsys, f"--workdir={workdir}", *flags, "--probes=ridge", output)
    assert code == 0
    assert "penalty   the best on every 4th image of each class of train; then all of" in out
    assert list(results_of(out)["probe"]["images"]) == ["train", "test"]


def test_images_to_predict_that_are_in_train_are_counted(workdir, capsys, tmp_path):
    flags = ("--probes=knn", f"--output={tmp_path / 'result.json'}")
    _, out, _ = run_probe(capsys, f"--workdir={workdir}", "--split=train[83:103]", *flags)
    assert "note      13 of the images to predict have the features of an image of train" in out
    _, out, _ = run_probe(capsys, f"--workdir={workdir}", *flags)
    assert "have the features of an image" not in out


def test_weights_without_a_head_on_a_folder(capsys, tmp_path):
    case = Case(FIXTURES / "hf_dinov2_cls.json")
    model = dict(case.model)
    flags = {"source": case.source, "input": case.weights, "model": model.pop("name"), **model}
    weights = tmp_path / "weights"
    argv = ["convert", *(f"--{key}={value}" for key, value in flags.items()), f"--output={weights}"]
    assert cli.run(convert.main, convert._flags(), "", argv, convert.parse_overrides) == 0
    rng = np.random.default_rng(0)
    for i in range(40):
        path = tmp_path / "PHOTOS" / ("dark", "light")[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 60, (30, 30, 3)) + 190 * (i % 2)
        Image.fromarray(pixels.astype(np.uint8)).save(path)
    capsys.readouterr()
    data = (f"--config.data.root={tmp_path / 'PHOTOS'}", "--config.data.val_share=0.3")
    few = ("--probes=knn,ridge,few_shot", "--shots=2", "--seeds=2", "--neighbours=3")
    code, out, _ = run_probe(capsys, f"--workdir={weights}", *data, *few)
    assert code == 0
    results = results_of(out)["probe"]["results"]
    assert results["knn"]["top1"]["value"] == results["ridge"]["top1"]["value"] == 1
    assert results["few_shot"]["shots"]["2"]["min"] == 1


def test_what_is_noted_of_each_split_is_printed(workdir, capsys, tmp_path):
    for split, extra in (("train", "a"), ("val", "b"), ("test", "c")):
        for i in range(16):
            path = tmp_path / "photos" / split / str(i % 2) / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((8, 8), 16 * i, np.uint8)).save(path)
        (path.parent / f"1.{extra}{extra}{extra}").write_text("")
    splits = [f"--config.data.{name}_split={name}" for name in ("train", "val", "test")]
    flags = (f"--config.data.root={tmp_path / 'photos'}", f"--output={tmp_path / 'a.json'}")
    code, out, _ = run_probe(capsys, f"--workdir={workdir}", "--probes=knn", *splits, *flags)
    assert code == 0
    assert [out.count(f"1 .{name}") for name in ("aaa", "bbb", "ccc")] == [1, 1, 1]
    (where,) = (line for line in out.splitlines() if line.startswith("cache "))
    assert where.endswith("(compiled programs)")


def test_a_missing_package_is_found_before_anything_is_read(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.linear_model", None)
    code, out, err = run_probe(capsys, "--train=none.npz", "--test=none.npz")
    assert (code, out) == (66, "")
    assert err.startswith("error: the probe logistic needs scikit-learn; run pip install 'vit_jax[")
    assert run_probe(capsys, "--train=none.npz", "--test=a.npz", "--probes=knn")[2].startswith(
        "error: none.npz: no such file"
    )


def test_a_layer_and_a_pool_are_those_of_the_flags(workdir, capsys, tmp_path):
    flags = ("--layer=blocks_0", "--pool=mean", "--probes=knn", f"--output={tmp_path / 'a.json'}")
    code, out, _ = run_probe(capsys, f"--workdir={workdir}", *flags)
    assert code == 0 and "features  blocks_0: the mean of the patch tokens" in out
    found = results_of(out)["probe"]
    assert (found["layer"], found["pool"], found["num_features"]) == ("blocks_0", "mean", 16)
    assert "penalty " not in out  # none is chosen


def test_an_output_that_cannot_be_written_is_found_first(capsys):
    flags = ("--train=none.npz", "--test=none.npz", "--output=/proc/none/a.json")
    code, _, err = run_probe(capsys, *flags)
    assert (code, err.count("\n")) == (73, 1)
    assert err.startswith("error: --output: cannot write /proc/none/a.json (")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ((), "--workdir: expected the work directory of a run, or files: --train=FILE --test=F"),
        (("--train={train}",), "--test: expected a file that vit_jax.embed wrote"),
        (("--test={test}",), "--train: expected a file that vit_jax.embed wrote"),
        (("--train={train}", "--test={test}", "--layer=head"), "--layer: expected no such flag"),
        (("--train={train}", "--test={test}", "--config.seed=1"), "--config.seed: expected no su"),
        (("--train={train}", "--test={test}", "--val={test}"), "--val: expected other images than"),
        (
            ("--train={train}", "--test={test}", "--val={train}"),
            "--val: expected other images than",
        ),
        (("--train={train}", "--test={other}"), "--test: expected the layer of --train (), got b"),
        (("--train={train}", "--test={unlabelled}"), "--test: expected images of a split, which h"),
        (("--train={tokens}", "--test={tokens}"), "--train: expected one vector for each image: e"),
        (("--train={train}", "--test=a.txt"), "--test: expected a name that ends in .npz or .par"),
        (("--workdir={run}", "--test={test}"), "--test: expected no such file with --workdir"),
        (("--workdir={run}", "--split=train"), "--split: expected other images than train, which"),
        (("--workdir={run}", "--probes=knn,rigde"), "--probes: unknown 'rigde'; did you mean 'r"),
        (("--workdir={run}", "--shots=1,x"), "--shots: expected positive integers with commas, g"),
        (("--workdir={run}", "--layer=blocks_9"), "--layer: unknown 'blocks_9'; did you mean"),
    ],
)
def test_errors_are_one_line(workdir, embeddings, capsys, tmp_path, flags, words):
    found, files = embeddings
    test = found["test"]
    made = {
        "other": test._replace(facts={**test.facts, "layer": "blocks_0"}),
        "unlabelled": test._replace(labels=None),
        "tokens": test._replace(features=test.features[:, None]),
    }
    paths = {name: epath.Path(tmp_path) / f"{name}.npz" for name in made}
    for name, embedding in made.items():
        write_embedding(paths[name], embedding)
    given = {**files, **paths, "run": workdir}
    code, _, err = run_probe(capsys, *(flag.format(**given) for flag in flags))
    assert code == 64 and err.startswith(f"error: {words}") and err.count("\n") == 1
