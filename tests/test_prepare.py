"""`python -m vit_jax.prepare`: the files it writes, and its errors."""

import collections
import errno
import gzip
import hashlib
import http.server
import importlib
import io
import json
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import warnings

import numpy as np
import pytest
import rich.console
import tensorflow_datasets as tfds
from conftest import ROOT
from etils import epath
from PIL import Image

from vit_jax import config as config_lib
from vit_jax import prepare
from vit_jax.console import cli, progress
from vit_jax.data.building import downloads as downloads_lib
from vit_jax.data.building.preparation import prepare_dataset
from vit_jax.data.building.progress import CountProgress
from vit_jax.data.sources.registry import open_split

CONTENT = bytes(range(240))  # ten images of 8x3 grey pixels
SHA = hashlib.sha256(CONTENT).hexdigest()
OTHER = hashlib.sha256(b"other").hexdigest()


def encode(pixels):
    png = io.BytesIO()
    Image.fromarray(pixels).save(png, format="png")
    return png.getvalue()


class Pixels(tfds.core.GeneratorBasedBuilder):
    """A data set made from one downloaded file; needs no TensorFlow."""

    VERSION = tfds.core.Version("1.0.0")
    pkg_dir_path = epath.Path(__file__).parent
    url = "http://127.0.0.1:1/files/pixels.bin?download=1"
    url_infos = None
    before = staticmethod(lambda: None)  # called before example 5; tests replace it

    def _info(self):
        features = {
            "image": tfds.features.Image(shape=(8, 3, 1), encoding_format="png"),
            "label": tfds.features.ClassLabel(num_classes=10),
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        content = dl_manager.download(self.url).read_bytes()
        return {"train": self._generate_examples(content)}

    def _generate_examples(self, content):
        pixels = np.frombuffer(content, np.uint8).reshape(-1, 8, 3)
        for index, image in enumerate(pixels):
            if index == 5:
                self.before()
            yield index, {"image": encode(image), "label": index}


class ManualPixels(Pixels):
    """A data set made from a file that the user has to download by hand."""

    MANUAL_DOWNLOAD_INSTRUCTIONS = "Ask the author\nfor manual.bin."

    def _split_generators(self, dl_manager):
        return {
            "train": self._generate_examples((dl_manager.manual_dir / "manual.bin").read_bytes())
        }


class Server(http.server.BaseHTTPRequestHandler):
    files: dict[str, bytes]
    asked: list[str]

    def do_GET(self):
        self.asked.append(self.path)
        content = self.files.get(self.path.rpartition("/")[2].partition("?")[0])
        self.send_response(404 if content is None else 200)
        self.end_headers()
        self.wfile.write(content or b"")

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    """Serves `files` on a local port and records the requests in `asked`."""
    for name in ("http_proxy", "HTTP_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    handler = type("Handler", (Server,), {"files": {"pixels.bin": CONTENT}, "asked": []})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as instance:
        thread = threading.Thread(target=instance.serve_forever, args=(0.01,))
        thread.start()
        handler.address = f"127.0.0.1:{instance.server_port}"
        monkeypatch.setattr(Pixels, "url", f"http://{handler.address}/pixels.bin?download=1")
        yield handler
        instance.shutdown()
        thread.join()


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Returns a function that runs the command and gives exit code, stdout and stderr.

    The first line of stdout, which says what is prepared, is left in `announced`.
    """
    monkeypatch.setattr(prepare, "_quiet", lambda: None)  # of the whole process

    def call(*flags, name="pixels"):
        argv = ["prepare", f"--dataset={name}", f"--data_dir={tmp_path / 'root'}", *flags]
        code = cli.run(prepare.main, prepare._flags(), "", argv)
        out, err = capsys.readouterr()
        lines = out.splitlines(keepends=True)
        call.announced = lines[0] if lines and lines[0].startswith("prepare ") else ""
        return code, out.removeprefix(call.announced), err

    return call


@pytest.fixture
def downloads(tmp_path):
    folder = tmp_path / "downloads"
    folder.mkdir()
    (folder / "pixels.bin").write_bytes(CONTENT)
    return folder


@pytest.fixture
def recorded(monkeypatch):
    """Records another digest for the file, under another name."""
    info = tfds.download.checksums if hasattr(tfds.download, "checksums") else None
    checksums = info or tfds.core.download.checksums
    url_info = checksums.UrlInfo(
        size=tfds.core.units.Size(5), checksum=OTHER, filename="a name.bin"
    )

    class Infos:
        def __get__(self, instance, owner):
            return {Pixels.url: url_info}

    monkeypatch.setattr(Pixels, "url_infos", Infos())


def read(tmp_path, name="pixels"):
    data = config_lib.Data(name=name, data_dir=str(tmp_path / "root"))
    source = open_split(data, "train_split")
    return {
        record["label"]: record["image"] for record in map(source.__getitem__, range(len(source)))
    }


EXPECTED = {
    index: encode(image)
    for index, image in enumerate(np.frombuffer(CONTENT, np.uint8).reshape(-1, 8, 3))
}


def leftovers(tmp_path):
    """Returns the files that a preparation left, except downloads."""
    root = tmp_path / "root"
    paths = [path for path in root.rglob("*") if "downloads" not in path.parts]
    return sorted(str(path.relative_to(root)) for path in paths if not path.is_dir())


def test_a_set_is_downloaded_prepared_and_read(run, server, tmp_path):
    code, out, err = run()
    assert (code, err) == (0, "")
    root = tmp_path / "root"
    prepared = rf"prepared in [\d.]+ s  {root}/pixels/1.0.0  train 10  [\d,]+ bytes  "
    setting = f'config.data.name = "pixels", config.data.data_dir = "{root}"\n'
    assert re.fullmatch(prepared + setting, out)
    downloads = f"downloads, if any, go to {root}/downloads"
    assert run.announced == f"prepare   pixels/1.0.0 in {root}/pixels/1.0.0; {downloads}\n"
    assert read(tmp_path) == EXPECTED


def test_a_prepared_set_is_not_changed(run, server, tmp_path):
    run()
    server.asked.clear()
    before = [path.stat() for path in sorted((tmp_path / "root" / "pixels").rglob("*"))]
    code, out, err = run(name="pixels:1.0.0")
    assert (code, err, server.asked) == (0, "", [])
    assert out.startswith(f"already prepared  {tmp_path / 'root' / 'pixels' / '1.0.0'}  train 10  ")
    assert run.announced == ""
    assert [path.stat() for path in sorted((tmp_path / "root" / "pixels").rglob("*"))] == before


@pytest.mark.parametrize("name", ["pixels.bin", "a name.bin"])
def test_an_existing_file_is_not_downloaded(run, server, downloads, recorded, tmp_path, name):
    (downloads / "pixels.bin").rename(downloads / name)
    code, out, _ = run(f"--downloads={downloads}", "--accept_checksums")
    assert (code, server.asked) == (0, [])
    accepted = f"accepted {downloads / name}: sha256 {SHA}, TFDS recorded {OTHER}"
    assert out.splitlines()[0] == accepted
    assert read(tmp_path) == EXPECTED


def test_another_checksum_is_an_error(run, server, downloads, recorded, tmp_path):
    code, out, err = run(f"--downloads={downloads}")
    digests = f"its sha256 is {SHA}, TFDS recorded {OTHER}"
    hint = "pass --accept_checksums to accept it"
    assert (code, out) == (65, "")
    assert err == f"error: {downloads / 'pixels.bin'}: {digests}; {hint}\n"
    assert leftovers(tmp_path) == []
    code, _, err = run()  # of the downloaded file
    assert (code, err) == (65, f"error: {Pixels.url}: {digests}; {hint}\n")


@pytest.mark.parametrize("flags", [(), ("--downloads=.",)])
def test_an_unreachable_server_fails_at_once(run, monkeypatch, flags):
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(Pixels, "url", f"http://127.0.0.1:{port}/elsewhere.bin")
    began = time.monotonic()
    code, out, err = run(*flags)
    assert time.monotonic() - began < 5
    assert (code, out) == (66, "")
    hint = "download it elsewhere and pass its folder as --downloads=DIR"
    assert err == f"error: {Pixels.url}: cannot be reached (Connection refused); {hint}\n"


def test_a_missing_file_on_the_server_is_an_error_with_its_status(run, server):
    server.files.clear()
    code, out, err = run()
    assert (code, out, len(server.asked)) == (66, "", 1)
    assert err.startswith(f"error: {Pixels.url}: HTTP status 404; download it elsewhere ")


def test_a_file_that_the_server_refuses_later_is_an_error_too(run, server, monkeypatch):
    monkeypatch.setattr(downloads_lib, "check_server", lambda url: None)
    server.files.clear()
    code, out, err = run()
    assert (code, out) == (66, "")
    assert re.match(rf"error: .*{re.escape(Pixels.url)}.* 404", err)


def test_a_proxy_is_used(run, server, monkeypatch, tmp_path):
    monkeypatch.setenv("http_proxy", f"http://{server.address}")
    monkeypatch.setattr(Pixels, "url", "http://nowhere.invalid/pixels.bin")
    code, _, err = run()
    assert (code, err) == (0, "")
    assert set(server.asked) == {"http://nowhere.invalid/pixels.bin"}


def test_files_to_be_downloaded_by_hand_are_requested_and_used(run, downloads, tmp_path):
    code, _, err = run(name="manual_pixels")
    assert code == 66
    assert "--downloads=DIR: Ask the author for manual.bin." in err
    code, _, err = run(f"--downloads={downloads}", name="manual_pixels")
    assert code == 66
    assert str(downloads / "manual.bin") in err
    (downloads / "pixels.bin").rename(downloads / "manual.bin")
    assert run(f"--downloads={downloads}", name="manual_pixels")[0] == 0
    assert read(tmp_path, "manual_pixels") == EXPECTED


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cifar01", "unknown 'cifar01'; did you mean 'cifar10'?"),
        ("pixel", "unknown 'pixel'; did you mean 'pixels'?"),
        ("pixels:2.0.0", "Dataset pixels cannot be loaded at version 2.0.0, only: 1.0.0."),
        ("pixels/large", "no config 'large' of pixels; it has no configs"),
        ("emnist/letter", "no config 'letter' of emnist; did you mean 'letters'?"),
        ("digits", "'digits' comes with vit_jax and needs no preparation"),
        ("", "expected NAME, NAME/CONFIG or NAME:VERSION, got ''"),
    ],
)
def test_a_wrong_name_is_an_error(run, tmp_path, name, message):
    assert run(name=name) == (64, "", f"error: --dataset: {message}\n")
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize(
    ("flag", "code", "message"),
    [
        ("--data_dir=FILE", 73, "--data_dir: cannot write FILE: "),
        ("--data_dir=gs://a/b", 64, "--data_dir: expected a local path, got gs://a/b"),
        ("--downloads=FILE", 66, "--downloads: no such folder: 'FILE'"),
        ("--config.seed=1", 64, "config.seed: this command has no config"),
        ("--dataste=mnist", 64, "--dataste: no such flag; did you mean '--dataset'?"),
    ],
)
def test_a_wrong_flag_is_an_error(run, tmp_path, flag, code, message):
    file = tmp_path / "file"
    file.write_text("")
    found, out, err = run(flag.replace("FILE", str(file)))
    assert (found, out) == (code, "")
    assert err.startswith("error: " + message.replace("FILE", str(file)))
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (KeyboardInterrupt(), 130, "stopped: immediately"),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), 73, "No space left on device"),
        (ImportError("No module named 'a'", name="a.b"), 64, "needs a; pip install a"),
        (
            ValueError("three\nlines " + 1000 * "x"),
            65,
            "pixels: TFDS cannot prepare it: ValueError",
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_failed_preparation_leaves_nothing(
    run, downloads, monkeypatch, tmp_path, error, code, message
):
    def fail():
        raise error

    monkeypatch.setattr(Pixels, "before", staticmethod(fail))
    found, out, err = run(f"--downloads={downloads}")
    assert (found, out) == (code, "")
    assert message in err
    assert err.count("\n") == 1
    assert len(err) < 500
    assert leftovers(tmp_path) == []


def test_a_killed_preparation_does_not_count(run, downloads, tmp_path):
    code = f"""
import os, signal, sys
sys.path.insert(0, {str(ROOT / "tests")!r})
import test_prepare
test_prepare.Pixels.before = staticmethod(lambda: os.kill(os.getpid(), signal.SIGKILL))
root = test_prepare.epath.Path({str(tmp_path / "root")!r})
test_prepare.prepare_dataset("pixels", root, {str(downloads)!r}, False)
"""
    killed = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert any(path.name.startswith("incomplete.") for path in (tmp_path / "root").rglob("*"))
    assert run(f"--downloads={downloads}")[1].startswith("prepared in ")
    assert read(tmp_path) == EXPECTED


def test_a_set_that_another_process_prepared_first_is_used(run, downloads, monkeypatch, tmp_path):
    def race():
        monkeypatch.setattr(Pixels, "before", staticmethod(lambda: None))
        root = epath.Path(tmp_path / "root")
        prepare_dataset("pixels", root, str(downloads), False)

    monkeypatch.setattr(Pixels, "before", staticmethod(race))
    assert run(f"--downloads={downloads}")[0] == 0
    assert read(tmp_path) == EXPECTED
    assert not [path for path in (tmp_path / "root").rglob("incomplete.*")]


def test_a_corrupt_set_is_named_and_not_changed(run, downloads, tmp_path):
    run(f"--downloads={downloads}")
    [path] = (tmp_path / "root" / "pixels" / "1.0.0").glob("*array_record*")
    path.unlink()
    before = leftovers(tmp_path)
    code, _, err = run(f"--downloads={downloads}")
    assert code == 66
    assert err.startswith(f"error: {path}: no such file; remove {path.parent} and run python -m ")
    assert leftovers(tmp_path) == before


def test_progress_is_plain_lines_off_a_terminal(run, downloads, monkeypatch):
    monkeypatch.setattr(CountProgress, "due", lambda self: True)
    code, out, err = run(f"--downloads={downloads}")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    encoded = [line for line in lines if line.startswith("encode ")]
    written = [line for line in lines if line.startswith("write ")]
    assert [line.split("  ")[0] for line in encoded] == [
        f"encode {count} examples" for count in range(1, 11)
    ]
    assert [line.split("  ")[0] for line in written] == [
        f"write {count}/10 examples" for count in range(1, 11)
    ]
    assert all(re.search(r"  ETA \d+:\d\d  [\d,]+ examples/s$", line) for line in written)
    assert max(map(len, lines[:-1])) <= 80
    assert len(lines) == len(encoded) + len(written) + 1


def test_progress_is_a_bar_on_a_terminal(run, downloads, monkeypatch):
    terminal = io.StringIO()
    console = rich.console.Console(
        file=terminal, force_terminal=True, highlight=False, markup=False, soft_wrap=True
    )
    monkeypatch.setattr(progress, "_console", console)
    monkeypatch.setattr(CountProgress, "due", lambda self: True)
    code, out, err = run(f"--downloads={downloads}")
    assert (code, err, len(out.splitlines())) == (0, "", 1)
    assert "write 10/10 examples" in terminal.getvalue()
    assert "━" in terminal.getvalue()


# Runs the command where TensorFlow cannot be imported.
WITHOUT_TENSORFLOW = f"""
import importlib.machinery, sys
sys.path.insert(0, {str(ROOT / "tests")!r})
class Absent(importlib.machinery.PathFinder):
    @classmethod
    def find_spec(cls, name, *args):
        return None if name.partition(".")[0] == "tensorflow" else super().find_spec(name, *args)
sys.meta_path[sys.meta_path.index(importlib.machinery.PathFinder)] = Absent
import test_prepare
from vit_jax import prepare
from vit_jax.console import cli
sys.exit(cli.run(prepare.main, prepare._flags(), ""))
"""


def without_tensorflow(*flags):
    command = [sys.executable, "-c", WITHOUT_TENSORFLOW, *flags]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def package_state():
    """Returns the checksum files of the installed TFDS: content and modification time."""
    files = [
        *tfds.core.tfds_path("url_checksums").iterdir(),
        *tfds.core.tfds_path("datasets").glob("*/checksums.tsv"),
    ]
    assert len(files) > 100
    return {path: (path.stat().mtime, path.read_bytes()) for path in files}


def write_idx(folder, sizes, seed=0):
    """Writes the files of fashion_mnist with a few images; returns them."""
    rng = np.random.default_rng(seed)
    written = {}
    for split, size in sizes.items():
        images = rng.integers(0, 256, (size, 28, 28), np.uint8)
        labels = rng.integers(0, 10, size, np.uint8)
        with gzip.open(folder / f"{split}-images-idx3-ubyte.gz", "wb") as file:
            file.write(struct.pack(">4i", 2051, size, 28, 28) + images.tobytes())
        with gzip.open(folder / f"{split}-labels-idx1-ubyte.gz", "wb") as file:
            file.write(struct.pack(">2i", 2049, size) + labels.tobytes())
        written[split] = images, labels
    return written


def test_the_extra_for_tensorflow_is_named_and_tfds_is_not_changed(tmp_path):
    write_idx(tmp_path, {"train": 3, "t10k": 2})
    before = package_state()
    result = without_tensorflow(
        "--dataset=fashion_mnist",
        f"--data_dir={tmp_path / 'root'}",
        f"--downloads={tmp_path}",
        "--accept_checksums",
    )
    hint = "preparing 'fashion_mnist' needs TensorFlow; pip install 'vit_jax[tfds]'"
    assert (result.returncode, result.stderr) == (64, f"error: --dataset: {hint}\n")
    announced, *accepted = result.stdout.splitlines()
    assert announced.startswith("prepare   fashion_mnist/")
    assert len(accepted) == 4
    assert all(line.startswith(f"accepted {tmp_path}") for line in accepted)
    assert leftovers(tmp_path) == []
    assert package_state() == before


def test_tfrecord_without_tensorflow_names_the_extra_and_is_not_changed(run, downloads, tmp_path):
    run(f"--downloads={downloads}")
    info = tmp_path / "root" / "pixels" / "1.0.0" / "dataset_info.json"
    info.write_text(json.dumps(json.loads(info.read_text()) | {"fileFormat": "tfrecord"}))
    [shard] = info.parent.glob("*array_record*")
    shard.rename(str(shard).replace("array_record", "tfrecord"))
    before = {path: path.read_bytes() for path in info.parent.iterdir()}
    result = without_tensorflow("--dataset=pixels", f"--data_dir={tmp_path / 'root'}")
    hint = "preparing 'pixels' needs TensorFlow; pip install 'vit_jax[tfds]'"
    assert (result.returncode, result.stderr) == (64, f"error: --dataset: {hint}\n")
    assert {path: path.read_bytes() for path in info.parent.iterdir()} == before


@pytest.fixture(scope="module")
def tensorflow():
    """Imports TensorFlow; these tests need it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module("tensorflow")


@pytest.mark.tfds
def test_fashion_mnist_is_prepared_from_its_files(run, tensorflow, monkeypatch, tmp_path):
    module = importlib.import_module("tensorflow_datasets.image_classification.mnist")
    monkeypatch.setattr(module, "_TRAIN_EXAMPLES", 7)
    monkeypatch.setattr(module, "_TEST_EXAMPLES", 3)
    before = package_state()
    for seed in (0, 1):  # files of the same names, which hold others
        files = tmp_path / f"files{seed}"
        files.mkdir()
        images, labels = write_idx(files, {"train": 7, "t10k": 3}, seed)["train"]
        flags = (f"--downloads={files}", "--accept_checksums")
        code, out, err = run(*flags, name="fashion_mnist")
        assert (code, err) == (0, "")
        assert "train 7, test 3" in out
        data = config_lib.Data(name="fashion_mnist", data_dir=str(tmp_path / "root"))
        source = open_split(data, "train_split")
        records = [source[index] for index in range(7)]
        found = collections.Counter(
            (np.asarray(Image.open(io.BytesIO(record["image"]))).tobytes(), record["label"])
            for record in records
        )
        written = zip(images, labels, strict=True)
        assert found == collections.Counter((x.tobytes(), int(y)) for x, y in written)
        shutil.rmtree(tmp_path / "root" / "fashion_mnist")
    assert package_state() == before


@pytest.fixture
def tfrecord(tensorflow, downloads, tmp_path):
    """Prepares the set as TFDS does by default; returns its folder."""
    builder = Pixels(data_dir=tmp_path / "root", file_format="tfrecord")
    config = tfds.download.DownloadConfig(num_shards=3)
    manager = downloads_lib.Downloads(epath.Path(downloads), False, download_dir=tmp_path / "cache")
    builder._make_download_manager = lambda **_: manager
    tfds.disable_progress_bar()
    builder.download_and_prepare(download_config=config)
    return tmp_path / "root" / "pixels" / "1.0.0"


@pytest.mark.tfds
def test_array_record_is_added_to_tfrecord(run, tfrecord, tmp_path):
    before = {path: path.read_bytes() for path in tfrecord.iterdir()}
    code, out, err = run()
    assert (code, err) == (0, "")
    assert "train 10" in out
    assert read(tmp_path) == EXPECTED
    info = tfrecord / "dataset_info.json"
    assert all(path.read_bytes() == old for path, old in before.items() if path != info)
    builder = tfds.builder("pixels", data_dir=tmp_path / "root")
    assert builder.info.file_format == tfds.core.FileFormat.TFRECORD
    assert len(list(builder.as_dataset("train"))) == 10
    assert run()[1].startswith("already prepared")


@pytest.mark.tfds
def test_a_missing_array_record_file_is_written_again(run, tfrecord, tmp_path):
    run()
    next(tfrecord.glob("*array_record*")).unlink()
    assert run()[1].startswith("prepared in")
    assert read(tmp_path) == EXPECTED


@pytest.mark.tfds
@pytest.mark.parametrize("size", [0, 100])
def test_corrupt_tfrecord_is_named_and_not_changed(run, tfrecord, tmp_path, size):
    path = sorted(tfrecord.glob("*tfrecord*"))[1]
    path.write_bytes(path.read_bytes()[:size])
    before = {path: path.read_bytes() for path in tfrecord.iterdir()}
    code, _, err = run()
    assert code == 65
    assert err.startswith(f"error: {path}: ")
    assert {path: path.read_bytes() for path in tfrecord.iterdir()} == before
