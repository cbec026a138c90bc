"""No command executes a payload of the corpus, or writes outside of its outputs."""

import gc
import hashlib
import json
import subprocess
import sys

import corpus
import jax
import payloads
import pytest
from conftest import ROOT, TINY

from vit_jax import convert, evaluate, predict, prepare, preview, train
from vit_jax.checkpoints import from_pretrained
from vit_jax.console import cli
from vit_jax.errors import UserError

LIBRARIES = ("timm", "huggingface", "google", "big_vision")
CONFIG = """
from vit_jax.config import Config, to_config_dict


def get_config():
    return to_config_dict(Config())
"""
EXECUTED = "sentinel"


def call(lib, *argv, parse=None):
    """Runs a command and returns its exit code."""
    return cli.run(lib.main, lib._flags(), "", ["command", *map(str, argv)], parse)


def convert_in(path, library, out):
    model = ("--model=vit_mu4", "--model.width=48", "--model.depth=2", "--model.mlp_dim=192")
    flags = (f"--source={library}", f"--input={path}", *model, f"--output={out / library}")
    return call(convert, *flags, parse=convert.parse_overrides)


def commands(kind, path, own):
    """Yields the commands that use a path, by its kind: the first word of the payload's name."""
    tiny = [f"--config.{key}={value}" for key, value in TINY.items()]
    file = f"--config={own / 'c.py'}"
    grid = [f"--output={own / 'grid.png'}", "--draws=1"]
    if kind == "image":
        flags = [f"--workdir={own / 'run'}", path]
        yield lambda: call(predict, *flags, parse=cli.parse_operands)
        yield lambda: call(preview, file, *tiny, f"--config.data.root={path.parents[2]}", *grid)
        return
    yield lambda: from_pretrained(str(path))
    yield lambda: call(evaluate, f"--workdir={path}")
    yield lambda: call(predict, f"--workdir={path}", own / "a.png", parse=cli.parse_operands)
    start = [f"--workdir={own / 'new'}", f"--config.init_from={path}", "--print_config"]
    yield lambda: call(train, file, *tiny, *start)
    if kind in ("run", "set"):
        out = f"--output={own / 'timm'}"
        yield lambda: call(
            convert, "--to=timm", f"--input={path}", out, parse=convert.parse_overrides
        )
    else:
        for library in LIBRARIES:
            yield lambda library=library: convert_in(path, library, own)
    if kind == "set":
        root = path.parent / "data"
        data = [f"--config.data.data_dir={root}", "--config.data.name=pictures"]
        data.append("--config.data.train_split=test")
        yield lambda: call(preview, file, *tiny, *data, *grid)
        yield lambda: call(prepare, "--dataset=pictures", f"--data_dir={root}")


def snapshot(folder):
    """Returns the digest of every file, by path."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """The user's own folder: an image, a run, a config file, and the outputs."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "a.png").write_bytes(payloads.png((8, 8)))
    (folder / "c.py").write_text(CONFIG)
    payloads.write_run(folder / "run")
    return folder


@pytest.fixture(scope="module", autouse=True)
def every_program_is_cached():
    """The commands compile the same small programs for each payload."""
    key = "jax_persistent_cache_min_compile_time_secs"
    before = jax.config.values[key]
    jax.config.update(key, 0.0)
    yield
    jax.config.update(key, before)


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    """Keeps `prepare` from changing settings of this process."""
    monkeypatch.setattr(prepare, "_quiet", lambda: None)


def check(name, write, tmp_path, own, monkeypatch, capsys):
    given, elsewhere = tmp_path / "given", tmp_path / "elsewhere"
    given.mkdir()
    elsewhere.mkdir()
    (elsewhere / "precious").write_text("mine")
    sentinel = elsewhere / EXECUTED
    payloads.plant(given, sentinel)
    path = write(given, sentinel)
    monkeypatch.syspath_prepend(str(given))  # what a file names could be imported
    monkeypatch.chdir(own)
    before = snapshot(elsewhere)
    codes = []
    for command in commands(name.partition(",")[0], path, own):
        try:
            codes.append(command())
        except UserError as error:
            codes.append(error.exit_code)
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        assert (err.count("error: ") == 1) == (codes[-1] not in (0, None)) or not err
        assert snapshot(elsewhere) == before, (command, out, err)
        assert payloads.MODULE not in sys.modules, (command, out, err)
    gc.collect()
    return codes


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("name", [*corpus.RUNS, *corpus.WEIGHTS, *corpus.IMAGES])
def test_nothing_is_executed_or_written_elsewhere(name, tmp_path, own, monkeypatch, capsys):
    write = {**corpus.RUNS, **corpus.WEIGHTS, **corpus.IMAGES}[name]
    codes = check(name, write, tmp_path, own, monkeypatch, capsys)
    assert len(codes) >= 2


@pytest.mark.parity
@pytest.mark.parametrize("name", corpus.TORCH_WEIGHTS)
def test_nothing_is_executed_by_torch(name, tmp_path, own, monkeypatch, capsys):
    check(name, corpus.TORCH_WEIGHTS[name], tmp_path, own, monkeypatch, capsys)


def test_the_payloads_do_what_they_are_for(tmp_path):
    """If a payload is loaded, the sentinel appears: the tests of the corpus can fail."""
    import pickle

    pickle.loads(pickle.dumps(payloads.Executes(tmp_path / "pickled")))  # noqa: S301
    assert (tmp_path / "pickled").exists()
    payloads.plant(tmp_path, tmp_path / "imported")
    subprocess.run([sys.executable, "-c", f"import {payloads.MODULE}"], cwd=tmp_path, check=True)
    assert (tmp_path / "imported").exists()
    folder = payloads.prepare_pictures(tmp_path / "data")
    payloads.tamper_features(folder, "feature")
    (tmp_path / "imported").unlink()
    code = f"import tensorflow_datasets as t; t.builder_from_directory({str(folder)!r})"
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True)
    assert (tmp_path / "imported").exists()


MEASURE = """
import json, sys, time
from vit_jax import convert, predict
from vit_jax.console import cli
LIBS = {"convert": convert, "predict": predict}
PARSE = {"convert": convert.parse_overrides, "predict": cli.parse_operands}


def peak():
    return int(next(line for line in open("/proc/self/status") if "VmHWM" in line).split()[1])


reports = []
for name, *argv in json.loads(sys.argv[1]):
    began = time.monotonic()
    lib = LIBS[name]
    code = cli.run(lib.main, lib._flags(), "", ["command", *argv], PARSE[name])
    reports.append([code, peak() // 1024, time.monotonic() - began])
print(json.dumps(reports))
"""


def test_what_would_grow_takes_no_memory_and_no_time(tmp_path, own):
    """At most 500 MB and 10 s above the same command on a harmless file."""
    folders = {name: tmp_path / name for name in ("npz", "tensors", "image")}
    for folder in folders.values():
        folder.mkdir()
    bombs = [
        corpus.npz_that_grows(folders["npz"], ""),
        corpus.WEIGHTS["safetensors, length"](folders["tensors"], ""),
    ]
    flags = ["convert", "--source=google", "--model=vit_mu4", f"--output={tmp_path / 'out'}"]
    argvs = [[*flags, f"--input={path}"] for path in (own / "a.png", *bombs)]
    picture = corpus.IMAGES["image, bomb"](folders["image"], "")
    run = f"--workdir={own / 'run'}"
    argvs += [["predict", run, str(path)] for path in (own / "a.png", picture)]
    harmless, *others, fine, worst = measure(argvs)
    assert (fine[0], worst[0]) == (0, 65)
    for first, later in ((harmless, others[0]), (harmless, others[1]), (fine, worst)):
        assert later[1] - first[1] < 500, later
        assert later[2] < first[2] + 10, later


def measure(argvs):
    """Returns exit code, peak memory so far in MiB and seconds of each call, in one process."""
    process = subprocess.run(
        [sys.executable, "-c", MEASURE, json.dumps(argvs)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=True,
    )
    return json.loads(process.stdout.splitlines()[-1])
