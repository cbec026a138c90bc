"""A run folder from a stranger cannot make a command write or fetch elsewhere, or hang."""

import gc
import json
import os
import shutil

import numpy as np
import payloads
import pytest
import tensorstore as ts
from conftest import TINY
from etils import epath

from vit_jax import config as config_lib
from vit_jax import evaluate, train
from vit_jax.checkpoints import from_pretrained
from vit_jax.console import cli
from vit_jax.errors import CheckpointError, InputMissingError
from vit_jax.training import results
from vit_jax.training.loop import train as train_run


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return payloads.write_run(tmp_path_factory.mktemp("run"))


@pytest.fixture
def run(written, tmp_path):
    """A copy, to be tampered with."""
    return shutil.copytree(written, tmp_path / "run")


def call_evaluate(run, *flags):
    argv = ["evaluate", f"--workdir={run}", *flags]
    return cli.run(evaluate.main, evaluate._flags(), "", argv)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"[" * 100_000, "nested too deeply"),
        (b'{"seed": ' + b"1" * 5000 + b"}", "not valid JSON"),
        (b'{"seed": "\xff"}', "not valid UTF-8"),
        (b'{"seed": 1, "seed": 2}', "duplicate key 'seed'"),
        (b'{"seed": 1}' + b" " * 2**24, "expected at most 16,777,216"),
        (b"", "not valid JSON"),
    ],
    ids=["deep", "long number", "not UTF-8", "key twice", "large", "empty"],
)
def test_a_config_that_is_no_plain_json_is_refused_in_one_line(run, content, said):
    (run / "config.json").write_bytes(content)
    with pytest.raises(InputMissingError, match=said) as error:
        from_pretrained(str(run))
    assert "\n" not in str(error.value) and len(str(error.value)) < 300


def test_a_config_that_would_block_is_missing(run):
    (run / "config.json").unlink()
    os.mkfifo(run / "config.json")
    with pytest.raises(InputMissingError, match="no such file"):
        from_pretrained(str(run))


def _pipe(step):
    os.mkfifo(step / "params" / "pipe")


def _device(step):
    (step / "params" / "zero").symlink_to("/dev/zero")


def _loop(step):
    (step / "params" / "up").symlink_to("..")


def _everything(step):
    (step / "params" / "root").symlink_to("/")


def _large_document(step):
    with open(step / "params" / "_METADATA", "r+b") as file:
        file.truncate(2**24 + 1)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_pipe, "pipe is not a regular file"),
        (_device, "zero is not a regular file"),
        (_loop, "up is a link to a folder"),
        (_everything, "root is a link to a folder"),
        (_large_document, "_METADATA has more than 16,777,216 bytes"),
    ],
)
def test_a_step_that_would_block_or_never_end_is_damaged(run, change, said):
    change(run / "checkpoints" / "0")
    with pytest.raises(CheckpointError, match=said):
        from_pretrained(str(run))


@pytest.mark.parametrize(
    "content",
    ["[]", "5", '{"config": 5}', '{"config": {}, "data": {"train_split": []}}', "[" * 9999],
)
def test_sealed_facts_that_are_none_are_refused(run, content):
    (run / "checkpoints" / "0" / "meta" / "metadata").write_text(content)
    payloads.seal(run / "checkpoints" / "0")
    with pytest.raises(CheckpointError, match="meta/metadata: "):
        from_pretrained(str(run))


def test_too_few_names_of_classes_are_refused(tmp_path):
    run = payloads.write_run(tmp_path / "run", classes=["cat", "dog"])
    with pytest.raises(CheckpointError, match="step 0 has 2 class names, the model 10 classes"):
        from_pretrained(str(run))


def test_a_checkpoint_that_grows_in_memory_is_refused(run):
    """A gigabyte of equal bytes takes a few kilobytes on disk, in one chunk of a small array."""
    array = run / "checkpoints" / "0" / "params" / "head.bias"
    size = 2**30
    shutil.rmtree(array)
    metadata = {"shape": [size], "chunks": [size], "dtype": "|u1", "compressor": {"id": "zstd"}}
    kvstore = {"driver": "file", "path": str(array)}
    spec = {"driver": "zarr", "kvstore": kvstore, "metadata": metadata}
    ts.open(spec, create=True).result().write(np.uint8(1)).result()
    text = (array / ".zarray").read_text()
    document = json.loads(text) | {"shape": [10], "chunks": [size // 4], "dtype": "<f4"}
    (array / ".zarray").write_text(json.dumps(document))
    payloads.seal(run / "checkpoints" / "0")
    with pytest.raises(
        CheckpointError, match=r"head/bias is \(10,\), stored in chunks of \(268435456,\)"
    ):
        from_pretrained(str(run))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_chunk_that_is_corrupt_is_one_line(run):
    (run / "checkpoints" / "0" / "params" / "head.bias" / "0").write_bytes(b"no chunk")
    payloads.seal(run / "checkpoints" / "0")
    with pytest.raises(CheckpointError, match="cannot restore the checkpoint") as error:
        from_pretrained(str(run))
    assert "\n" not in str(error.value)
    del error
    gc.collect()  # of Orbax's coroutines, which nobody awaits


def test_digits_are_not_written_where_a_run_says(tmp_path):
    settings = {"data.name": "digits", "data.data_dir": str(tmp_path / "elsewhere")}
    run = payloads.write_run(tmp_path / "run", settings, classes="0123456789")
    assert call_evaluate(run) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]


def test_figures_are_not_written_through_a_link(run, tmp_path, capsys):
    (tmp_path / "elsewhere").mkdir()
    (run / "evaluations").symlink_to(tmp_path / "elsewhere")
    assert call_evaluate(run) == 0
    out, err = capsys.readouterr()
    assert "is a link out of the run; the metrics are not written" in err
    assert json.loads(out.splitlines()[-1])["step"] == 0
    assert not list((tmp_path / "elsewhere").iterdir())


def test_figures_replace_a_link_and_not_what_it_leads_to(run, tmp_path):
    (run / "evaluations").mkdir()
    (tmp_path / "precious").write_text("mine")
    for name in ("0-test.json", ".0-test.json.tmp"):
        (run / "evaluations" / name).symlink_to(tmp_path / "precious")
    assert call_evaluate(run) == 0
    assert (tmp_path / "precious").read_text() == "mine"
    assert not (run / "evaluations" / "0-test.json").is_symlink()


def test_nothing_is_fetched_because_a_run_names_a_place(run, capsys):
    payloads.edit_config(run, data__name="cifar10", data__data_dir="gs://elsewhere/data")
    assert call_evaluate(run) == 64
    err = capsys.readouterr().err
    assert err.startswith("error: config.data.data_dir: gs://elsewhere/data is on another machine")
    assert "--config.data.data_dir=gs://elsewhere/data" in err
    from_pretrained(str(run))  # needs no images


def test_a_resumed_run_fetches_nothing_that_it_names_alone(run, tmp_path):
    payloads.edit_config(run, data__data_dir="gs://elsewhere/data")
    (run / "origins.json").write_text('{"data.data_dir": "flag"}')
    text = "from vit_jax.config import Config, to_config_dict\n"
    text += "def get_config(): return to_config_dict(Config())\n"
    (tmp_path / "c.py").write_text(text)
    argv = ["train", f"--config={tmp_path}/c.py", f"--workdir={run}"]
    flags = [f"--config.{key}={value}" for key, value in TINY.items()]
    assert cli.run(train.main, train._flags(), "", [*argv, *flags]) == 64


def test_a_source_model_and_a_teacher_that_a_run_names_are_not_opened(run, tmp_path):
    """The weights are in the run; what it started from, and learned from, is not read again."""
    for place in ("gs://elsewhere/run", str(tmp_path / "nowhere")):
        tree = json.loads((run / "config.json").read_text())
        objective = (
            tree["objective"]
            if "kind" in tree["objective"]
            else {
                **{key: value for key, value in tree["objective"].items() if key != "name"},
                "name": "distillation",
                "kind": "hard",
                "alpha": 0.5,
                "temperature": 1.0,
            }
        )
        tree["objective"] = {**objective, "teacher": place}
        tree["init_from"] = place
        (run / "config.json").write_text(json.dumps(tree))
        from_pretrained(str(run))
    assert call_evaluate(run) == 0


def test_results_that_are_damaged_are_computed_again(tiny_config, tmp_path, capsys):
    workdir = epath.Path(tmp_path / "run")
    settings = config_lib.Resolved(tiny_config({"total_steps": "2"}), {})
    first = train_run(settings, workdir)
    path = tmp_path / "run" / "results.json"
    capsys.readouterr()
    assert train_run(settings, workdir) == first
    assert "finished  this run is complete" in capsys.readouterr().out
    whole = path.read_text()
    damaged = [
        whole.replace('"step": 2', '"step": 2, "step": 2'),
        whole.replace('"count": 21', '"count": 29'),
        "[]",
        "[" * 9999,
        json.dumps({key: value for key, value in first.items() if key != "sha256"}),
    ]
    for content in damaged:
        assert content != whole
        path.write_text(content)
        assert results._read(epath.Path(path)) == {}
        assert "results.json is corrupt, or of an older version" in capsys.readouterr().err
    assert train_run(settings, workdir)["eval"] == first["eval"]
    assert "finished" not in capsys.readouterr().out
    assert json.loads(path.read_text())["eval"] == first["eval"]
