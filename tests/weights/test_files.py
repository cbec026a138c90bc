"""Weight files are checked before an array is read, and no code in them is executed."""

import contextlib
import json
import os
import random
import struct
import subprocess
import sys
import tracemalloc
import zipfile

import ml_dtypes
import numpy as np
import pytest
from conftest import ROOT
from small_weights import Trap, read_all, same, write, write_zip

from vit_jax.errors import ConfigError, DataError, InputMissingError, WorkdirError
from vit_jax.weights.files import Header, is_file_name, open_file, write_file
from vit_jax.weights.folder import open_files

BF16 = np.dtype(ml_dtypes.bfloat16)
KINDS = (".npz", ".safetensors", pytest.param(".pth", marks=pytest.mark.parity))


@pytest.fixture
def arrays():
    """Weights of every dtype and odd shape; not in alphabetical order."""
    rng = np.random.default_rng(0)
    return {
        "z/kernel": rng.normal(size=(3, 5)).astype(np.float32),
        "half": rng.normal(size=(7,)).astype(np.float16),
        "a.brain": rng.normal(size=(2, 3, 4)).astype(BF16),
        "scalar": np.array(1.5, np.float32),
        "brain scalar": np.array(1.5, BF16),
        "empty": np.zeros((4, 0, 2), np.float32),
        "größe": np.asfortranarray(rng.normal(size=(4, 6)).astype(np.float32)),
        "odd": rng.normal(size=(3,)).astype(BF16),
    }


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_written_is_read(tmp_path, arrays, kind):
    path = write(tmp_path / f"new{kind}", arrays)
    assert os.listdir(tmp_path) == [path.name]
    with open_file(str(path)) as file:
        assert file.path == path
        assert list(file.headers) == list(arrays)
        for name, array in arrays.items():
            assert file.headers[name] == Header(array.shape, array.dtype)
            found = file.read(name)
            assert same(found, array)
            assert found.flags.c_contiguous and found.flags.writeable
            found[...] = 0
            assert same(file.read(name), array)  # it was memory of its own


def test_npz_is_what_numpy_writes(tmp_path, arrays):
    write(tmp_path / "ours.npz", arrays)
    np.savez(tmp_path / "theirs.npz", **arrays)
    assert (tmp_path / "ours.npz").read_bytes() == (tmp_path / "theirs.npz").read_bytes()


def test_a_compressed_npz_is_read(tmp_path, arrays):
    np.savez_compressed(tmp_path / "a.npz", **arrays)
    found = read_all(tmp_path / "a.npz")
    assert all(same(found[name], array) for name, array in arrays.items())


@pytest.mark.parity
def test_safetensors_exchanges_files_with_the_package(tmp_path, arrays):
    numpy = pytest.importorskip("safetensors.numpy")
    arrays["größe"] = np.ascontiguousarray(arrays["größe"])  # the package writes others wrongly
    theirs = numpy.load_file(write(tmp_path / "ours.safetensors", arrays))
    assert all(same(theirs[name], array) for name, array in arrays.items())
    numpy.save_file(arrays, tmp_path / "theirs.safetensors", metadata={"made": "there"})
    ours = read_all(tmp_path / "theirs.safetensors")
    assert ours.keys() == arrays.keys()
    assert all(same(ours[name], array) for name, array in arrays.items())


def test_safetensors_headers_fill_eight_bytes(tmp_path, arrays):
    content = write(tmp_path / "a.safetensors", arrays).read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    assert length % 8 == 0
    names = json.loads(content[8 : 8 + length])
    assert names.pop("__metadata__") == {"format": "pt"}
    assert list(names) == list(arrays)


def test_read_only_and_turned_arrays_are_written(tmp_path):
    array = np.arange(24, dtype=np.float32).reshape(4, 6).T[::-1]
    array.flags.writeable = False
    for kind in (".npz", ".safetensors"):
        assert same(read_all(write(tmp_path / f"a{kind}", {"a": array}))["a"], array.copy("C"))


def test_parts_are_joined(tmp_path):
    one, two = ({name: np.full((2,), i, np.float32)} for i, name in enumerate("ba"))
    paths = [write(tmp_path / "1.npz", one), write(tmp_path / "2.safetensors", two)]
    with open_files(paths) as file:
        assert list(file.headers) == ["b", "a"]
        assert all(same(file.read(name), array) for name, array in {**one, **two}.items())
    with pytest.raises(DataError, match=r"3\.npz: b is also in .*1\.npz"):
        open_files([*paths, write(tmp_path / "3.npz", one)])


@pytest.mark.parametrize("kind", [".npz", ".safetensors"])
def test_a_file_that_is_there_stays(tmp_path, kind):
    path = tmp_path / f"a{kind}"
    path.write_text("mine")
    with pytest.raises(WorkdirError, match="already exists; give another --output"):
        write(path, {"a": np.zeros(2, np.float32)})
    assert path.read_text() == "mine"


@pytest.mark.parametrize("kind", [".npz", ".safetensors"])
def test_a_failed_write_leaves_nothing(tmp_path, kind):
    def read(name):
        raise RuntimeError(name)

    header = Header((2,), np.dtype(np.float32))
    with pytest.raises(RuntimeError, match="a"):
        write_file(tmp_path / f"new{kind}", {"a": header}, read)
    with pytest.raises(ValueError, match=r"a: made .*float16.*, expected .*float32"):
        write_file(tmp_path / f"new{kind}", {"a": header}, lambda name: np.zeros(2, np.float16))
    assert not os.listdir(tmp_path)


def test_nothing_is_written_where_that_cannot_be(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(WorkdirError, match="cannot be written"):
        write(tmp_path / "file" / "a.npz", {"a": np.zeros(2, np.float32)})
    with pytest.raises(ConfigError, match=r"--output: .*expected .npz, .safetensors, .pth"):
        write(tmp_path / "a.h5", {"a": np.zeros(2, np.float32)})


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("a.npz", True),
        ("a.PTH", True),
        ("vit_base_patch16_224.augreg2_in21k_ft_in1k", False),
        ("export_v1.0", False),
        ("a.safetensor", "did you mean '.safetensors'"),
        ("a.saftensors", "did you mean '.safetensors'"),
        ("a.pht", "did you mean '.pth'"),
        ("a.pt", "did you mean '.pth'"),
        ("a.pth.tar", "did you mean '.pth'"),
        ("a.bin", "did you mean '.pth'"),
        ("a.npy", "did you mean '.npz'"),
    ],
)
def test_a_name_to_write_is_a_file_a_folder_or_a_slip(name, said, tmp_path):
    if isinstance(said, bool):
        assert is_file_name(tmp_path / name) is said
        return
    with pytest.raises(ConfigError, match=f"--output: .*{name}: .*{said}"):
        is_file_name(tmp_path / name)


@pytest.mark.parametrize("name", [".a.npz.tmp", ".a.tmp"])
def test_files_of_others_that_look_temporary_stay(name, tmp_path):
    (tmp_path / "mine").write_text("mine")
    (tmp_path / name).symlink_to(tmp_path / "mine")
    write(tmp_path / "a.npz", {"a": np.zeros(2, np.float32)})
    assert (tmp_path / "mine").read_text() == "mine" and (tmp_path / name).is_symlink()


def test_what_is_not_there_or_unknown_is_named(tmp_path):
    with pytest.raises(InputMissingError, match=r"no\.npz: No such file"):
        open_file(tmp_path / "no.npz")
    (tmp_path / "folder.npz").mkdir()
    with pytest.raises(InputMissingError, match=r"folder\.npz: a folder"):
        open_file(tmp_path / "folder.npz")


def test_torch_is_not_imported_and_not_needed(tmp_path):
    path = tmp_path / "a.pth"
    path.write_bytes(b"\x80\2")
    code = f"""if True:
        import sys
        from vit_jax.errors import ConfigError
        from vit_jax.weights import files
        assert "torch" not in sys.modules
        sys.modules["torch"] = None
        try:
            files.open_file({str(path)!r})
        except ConfigError as error:
            print(error)
    """
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert out.stdout == "--input: torch is not installed; pip install 'vit_jax[torch]'\n"


def npz_member(header, content=b"", version=b"\x01\x00"):
    """Returns a member of an npz with a header that NumPy would not write."""
    text = header if isinstance(header, bytes) else repr(header).encode()
    length = struct.pack("<H" if version == b"\x01\x00" else "<I", len(text))
    return b"\x93NUMPY" + version + length + text + content


def described(shape, descr="<f4", fortran=False):
    return {"descr": descr, "fortran_order": fortran, "shape": shape}


@pytest.mark.parametrize(
    ("member", "problem"),
    [
        (npz_member(described((2,)), bytes(7)), "7 bytes, not 8"),
        (npz_member(described((2,)), bytes(9)), "9 bytes, not 8"),
        (npz_member(described((10**13,)), bytes(8)), "8 bytes, not 40,000,000,000,000"),
        (npz_member(described((-1, -2)), bytes(8)), "impossible shape"),
        (npz_member(described((0, 2**62)), b""), "impossible shape"),
        (npz_member(described((1,) * 70), bytes(4)), "impossible shape"),
        (npz_member(described((True, 2)), bytes(8)), "impossible shape"),
        (npz_member(described((1.5,)), bytes(8)), "shape is not valid"),
        (npz_member(described((2,), "|O"), bytes(16)), "holds Python objects, .* never loaded"),
        (
            npz_member(described((2,), [("x", "<f4")]), bytes(8)),
            "expected arrays of float64, .*; a ",
        ),
        (npz_member(described((2,), [("x", "|O")]), bytes(16)), "holds Python objects"),
        (npz_member(described((2,), "<c8"), bytes(16)), "expected .* a is complex64"),
        (npz_member(described((2,), "<M8[s]"), bytes(16)), "expected .* a is datetime64"),
        (npz_member(described((2,), "<U4"), bytes(32)), "expected .* a is <U4"),
        (npz_member(described((2,), ">f4"), bytes(8)), "expected .* a is >f4"),
        (npz_member(described((2,), "<f4)"), bytes(8)), "corrupt"),
        (npz_member(described((2,)), bytes(8), b"\x07\x00"), "corrupt: KeyError"),
        (npz_member({"shape": (2,)}, bytes(8)), "correct keys"),
        (npz_member(b"[" * 9000), "corrupt"),
        (npz_member(b"-" * 9000 + b"1"), "corrupt"),
        (npz_member(b" " * 20000), "corrupt"),
        (npz_member(b" " * 3_000_000, version=b"\x02\x00"), "corrupt"),
        (b"", "corrupt"),
        (b"no array", "corrupt"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_wrong_npz_member_is_refused(tmp_path, member, problem):
    path = write_zip(tmp_path / "a.npz", [("a.npy", member)])
    with pytest.raises(DataError, match=rf"^[^\n]*a\.npz: [^\n]*{problem}[^\n]*$"):
        open_file(path)


def test_a_wrong_zip_is_refused(tmp_path, monkeypatch):
    good = npz_member(described((2,)), bytes(8))
    path = tmp_path / "a.npz"
    for content in (b"", b"text", b"PK\3\4" + bytes(100)):
        path.write_bytes(content)
        with pytest.raises(DataError, match="corrupt: BadZipFile"):
            open_file(path)
    with pytest.raises(DataError, match=r"notes.txt: expected arrays"):
        open_file(write_zip(path, [("a.npy", good), ("notes.txt", "hello")]))
    with pytest.warns(UserWarning, match="Duplicate"):
        write_zip(path, [("a.npy", good), ("a.npy", good)])
    with pytest.raises(DataError, match=r"a\.npy: .*each name once"):
        open_file(path)
    for method in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):  # whose pieces grow without bound
        with pytest.raises(DataError, match="compression is not supported"):
            open_file(write_zip(path, [("a.npy", good)], method))
    content = bytearray(write_zip(path, [("a.npy", good)]).read_bytes())
    content[content.index(b"PK\1\2") + 8] |= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match="encrypted"):
        open_file(path)


def test_entries_that_share_bytes_are_refused(tmp_path):
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.npy", npz_member(described((1000,)), bytes(4000)))
        for i in range(100):
            archive.NameToInfo[f"{i}.npy"] = twin = zipfile.ZipInfo(f"{i}.npy")
            first = archive.filelist[0]
            for field in ("CRC", "compress_size", "file_size", "header_offset"):
                setattr(twin, field, getattr(first, field))
            archive.filelist.append(twin)
    with pytest.raises(DataError, match="entries are larger than the file"):
        open_file(path)


def test_objects_in_npz_are_not_made(tmp_path):
    mark = tmp_path / "mark"
    path = tmp_path / "a.npz"
    np.savez(path, a=np.array([Trap(mark)], object))
    with pytest.raises(DataError, match="a holds Python objects, which are never loaded"):
        open_file(path)
    assert not mark.exists()
    np.load(path, allow_pickle=True)["a"]
    assert mark.exists()  # the trap is one


@pytest.fixture
def zip_bomb(tmp_path):
    """A member of 1 GiB in a few MB."""
    with (
        zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("a.npy", "w") as member,
    ):
        member.write(npz_member(described((1 << 28,))))
        for _ in range(64):
            member.write(bytes(1 << 24))
    assert (tmp_path / "a.npz").stat().st_size < 10 << 20
    return tmp_path / "a.npz"


@contextlib.contextmanager
def little_memory():
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < 50 << 20
    finally:
        tracemalloc.stop()


def test_a_zip_bomb_is_refused(zip_bomb):
    with little_memory(), pytest.raises(DataError, match=r"a\.npy would grow from .*zip bomb"):
        open_file(zip_bomb)
    content = bytearray(zip_bomb.read_bytes())
    size = len(npz_member(described((1 << 28,)), bytes(8)))
    struct.pack_into("<I", content, content.rindex(b"PK\1\2") + 24, size)  # it says: two numbers
    zip_bomb.write_bytes(content)
    with little_memory(), pytest.raises(DataError, match="corrupt: BadZipFile Bad CRC-32"):
        open_file(zip_bomb)


def safetensors(entries, content=b"", length=None):
    text = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + content


def entry(shape, begin, end, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "truncated"),
        (b"1234567", "truncated"),
        (safetensors({}, length=10**13), "header of 10,000,000,000,000 bytes"),
        (safetensors({"a": entry([2], 0, 8)}, bytes(7)), "bytes, expected"),
        (safetensors({"a": entry([2], 0, 8)}, bytes(9)), "bytes, expected"),
        (safetensors({"a": entry([10**13 // 4], 0, 10**13)}, bytes(8)), "bytes, expected"),
        (safetensors({"a": entry([3], 0, 8)}, bytes(8)), "a: expected at"),
        (safetensors({"a": entry([2], 4, 12)}, bytes(12)), "a: expected at"),
        (safetensors({"a": entry([2], 0, 8), "b": entry([2], 4, 12)}, bytes(12)), "b: expected"),
        (safetensors({"a": entry([2], 0, 8), "b": entry([2], 12, 20)}, bytes(20)), "b: expected"),
        (safetensors({"a": entry([2], 8, 0)}, bytes(8)), "a: expected at"),
        (safetensors({"a": entry([2], None, 8)}, bytes(8)), "a: expected at"),
        (safetensors({"a": entry([-2], 0, -8)}, bytes(8)), "impossible shape"),
        (safetensors({"a": entry([-2, -1], 0, 8)}, bytes(8)), "impossible shape"),
        (safetensors({"a": entry([2.0], 0, 8)}, bytes(8)), "impossible shape"),
        (safetensors({"a": entry([True, 2], 0, 8)}, bytes(8)), "impossible shape"),
        (safetensors({"a": entry(["2"], 0, 8)}, bytes(8)), "impossible shape"),
        (safetensors({"a": entry([0, 2**63], 0, 0)}), "impossible shape"),
        (safetensors({"a": entry([10] * 100_000, 0, 8)}, bytes(8)), "impossible shape"),
        (safetensors({"a": entry(7, 0, 8)}, bytes(8)), "corrupt"),
        (safetensors({"a": entry([8], 0, 8, "F8_E4M3")}, bytes(8)), "expected .*a is F8_E4M3"),
        (safetensors({"a": entry([1], 0, 8, "C64")}, bytes(8)), "expected .*a is C64"),
        (safetensors({"a": entry([1], 0, 8, ["F32"])}, bytes(8)), "expected arrays of"),
        (safetensors({"a": {"dtype": "F32", "shape": [2]}}, bytes(8)), "corrupt"),
        (safetensors({"a": 3}), "corrupt"),
        (safetensors([1]), "corrupt"),
        (safetensors(b"{not json}"), "corrupt"),
        (safetensors(b"\xff\xfe{}"), "corrupt"),
        (safetensors(b'{"a": ' + b"[" * 100_000), "corrupt: RecursionError"),
        (safetensors(b'{"a": ' + b"1" * 10_000 + b"}"), "corrupt"),
        (safetensors(b'{"a": {}, "a": {}}'), "a name occurs twice"),
        (safetensors(b'{"a": {"shape": [1], "shape": [2]}}'), "a name occurs twice"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_wrong_safetensors_are_refused(tmp_path, content, problem):
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    line = rf"^[^\n]*a\.safetensors: [^\n]*{problem}[^\n]*$"
    with little_memory(), pytest.raises(DataError, match=line) as error:
        open_file(path)
    assert len(str(error.value)) < 500 + len(str(path))


def damaged_copies(content, count):
    """Yields a file cut off, and with some of its bits flipped, at random places."""
    rng = random.Random(0)
    for _ in range(count):
        yield content[: rng.randrange(len(content))]
    for _ in range(10 * count):
        place = rng.randrange(len(content))
        yield (
            content[:place] + bytes([content[place] ^ 1 << rng.randrange(8)]) + content[place + 1 :]
        )


@pytest.mark.parametrize("kind", [*KINDS, ".deflated.npz"])
def test_damage_is_an_error_of_ours_or_none(tmp_path, arrays, kind):
    path = tmp_path / f"a{kind}"
    if kind == ".deflated.npz":
        np.savez_compressed(path, **arrays)
    else:
        write(path, arrays)
    content = path.read_bytes()
    refused = read = 0
    for copy in damaged_copies(content, 20):
        path.write_bytes(copy)
        try:
            found = read_all(path)
        except DataError as error:
            refused += 1
            assert "\n" not in str(error)
            continue
        read += 1
        assert len(copy) == len(content)
        if path.suffix == ".npz":  # it has checksums of the arrays, not of their names
            assert [a.tobytes() for a in found.values()] == [a.tobytes() for a in arrays.values()]
    assert refused > 20 and read > 20


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_arrays_of_any_number_are_read(suffix, tmp_path):
    kinds = ["f8", "i1", "i4", "i8", "u1", "u8", "?"]
    tables = {kind: np.arange(4).astype(kind).reshape(2, 2) for kind in kinds}
    found = read_all(write(tmp_path / f"a{suffix}", tables))
    assert all(same(found[kind], table) for kind, table in tables.items())


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1", "a Git LFS pointer"),
        (b"<!DOCTYPE html><html>", "a web page"),
        (b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
        (b"\x1f\x8b\x08", "compressed with gzip"),
        (b"\x93NUMPY\x01\x00", "a single array"),
        (b"\0" * 257 + b"ustar", "a tar archive"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
@pytest.mark.parametrize("name", ["a.npz", "a.safetensors", "a.pth.tar", "weights"])
def test_what_a_file_is_instead_is_said(name, content, said, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=rf"{name}: not a weight file: {said}"):
        open_file(tmp_path / name)


def test_the_content_says_what_a_file_is(tmp_path, arrays):
    for kind in (".npz", ".safetensors"):
        path = write(tmp_path / f"a{kind}", arrays)
        for name in ("weights", "a.v2", f"a{kind.upper()}", "a.pth"):
            assert read_all(path.rename(tmp_path / name)).keys() == arrays.keys()
            path = tmp_path / name
    (tmp_path / "text").write_text("hello")
    with pytest.raises(DataError, match=r"unknown format; expected \.npz, "):
        open_file(tmp_path / "text")


def test_what_is_no_regular_file_is_not_opened(tmp_path):
    os.mkfifo(tmp_path / "a.npz")  # opening it would wait for ever
    with pytest.raises(InputMissingError, match=r"a\.npz: not a regular file"):
        open_file(tmp_path / "a.npz")


def test_large_headers_take_no_memory(tmp_path):
    (tmp_path / "a.safetensors").write_bytes(safetensors(b'{"a":' + b"[]," * (3 << 20)))
    with little_memory(), pytest.raises(DataError, match="header of 9,437,189 bytes"):
        open_file(tmp_path / "a.safetensors")
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 9, 9, 9 << 20, 4, 0)
    (tmp_path / "a.npz").write_bytes(b"PK\3\4" + bytes(9 << 20) + end)
    with (
        little_memory(),
        pytest.raises(DataError, match="a directory of 9,437,184 bytes; expected"),
    ):
        open_file(tmp_path / "a.npz")
