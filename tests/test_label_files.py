"""Label files are read as editors on any system save them."""

import pytest

from vit_jax.conversion.label_files import read_labels
from vit_jax.errors import ConfigError, DataError

NAMES = ("tench, Tinca tinca", "Größe", "猫")
TEXT = "\n".join(NAMES)


def write(tmp_path, content):
    path = tmp_path / "labels.txt"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize(
    "content",
    [
        TEXT,
        f"{TEXT}\n",
        f"{TEXT}\n\n \n",
        TEXT.replace("\n", "\r\n") + "\r\n",
        TEXT.replace("\n", "\r"),
        TEXT.encode("utf-8-sig"),
        TEXT.encode("utf-16"),
        b"\xfe\xff" + TEXT.encode("utf-16-be"),
        TEXT.encode("utf-32"),
        TEXT.replace("\n", " \n "),
    ],
)
def test_names_are_read(content, tmp_path):
    assert read_labels(write(tmp_path, content), 3) == (NAMES, ())


def test_other_line_ends_are_part_of_a_name(tmp_path):
    names, _ = read_labels(write(tmp_path, "a\x0bb\nc\u2028d\n"), 2)
    assert names == ("a\x0bb", "c\u2028d")


def test_classes_of_the_same_name_are_kept_apart_and_said(tmp_path):
    names, notes = read_labels(write(tmp_path, "crane\nhen\ncrane\n"), 3)
    assert names == ("crane (0)", "hen", "crane (2)")
    assert notes == ("1 name occurs more than once; 'crane' became 'crane (0)', 'crane (2)'",)
    names, notes = read_labels(write(tmp_path, "a\nb\na\nb\n"), 4)
    assert notes == ("2 names occur more than once; 'a' became 'a (0)', 'a (2)'",)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("a\nb\n", "2 class names, but the model has 3 classes"),
        ("", "0 class names, but the model has 3 classes"),
        ("a\n\nc\n", "line 2 is empty"),
        ("\na\nb\nc", "line 1 is empty"),
        ("a\nb\nGröße".encode("latin-1"), "line 3 is not UTF-8; save it as UTF-8"),
        ("a\r\nGröße\r\nb".encode("latin-1"), "line 2 is not UTF-8"),
        (TEXT.encode("utf-16")[:-1], "is not UTF-16"),
        (TEXT.encode("utf-16-le"), "not"),
        (b"\x89PNG\r\n\x1a\n\0\0", "line 1 is not UTF-8"),
        ("a\0\nb\nc", "not text in UTF-8"),
        ('["a",\n"b",\n"c"]', "expected plain text with one class name per line, got JSON"),
        ('{\n"0": "a"\n}', "expected plain text with one class name per line, got JSON"),
        ('{"0": "a", "1": "b", "2": "c"}', "expected plain text with one class name per line"),
    ],
)
def test_what_is_no_list_of_names_is_refused(content, said, tmp_path):
    with pytest.raises(DataError, match=rf"labels\.txt: .*{said}") as raised:
        read_labels(write(tmp_path, content), 3)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ["labels.json", "labels.csv", "labels.TSV"])
def test_tables_are_refused_by_their_suffix(name, tmp_path):
    (tmp_path / name).write_text("a\nb\nc\n")
    with pytest.raises(DataError, match="expected plain text"):
        read_labels(tmp_path / name, 3)


def test_what_is_no_file_is_refused(tmp_path):
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(ConfigError, match=r"--labels: cannot read .*no such file"):
            read_labels(path, 3)
    with (tmp_path / "large.txt").open("wb") as file:
        file.truncate(1 << 30)
    with pytest.raises(DataError, match="more than 16,777,216 bytes"):
        read_labels(tmp_path / "large.txt", 3)
