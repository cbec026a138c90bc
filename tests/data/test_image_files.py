"""Which files below a folder are images, and that nothing else is opened."""

import os
import socket

import pytest

from vit_jax.data.image_files import MAX_BYTES, find_images, holds_image, read_image_file
from vit_jax.data.images import UnreadableError
from vit_jax.data.sources.in_memory import InMemory
from vit_jax.errors import DataError


def fill(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * len(name))


def below(root, found):
    return [os.path.relpath(image.path, root) for image in found.images]


def test_images_come_in_the_order_of_their_paths_with_their_sizes(tmp_path):
    names = ["a.png", "a/2.JPG", "a/b/1.png", "a-c/1.png", "b.jpeg", "C.png"]
    fill(tmp_path, *names, "a/note.txt", "a/.1.png")
    (found,) = find_images(tmp_path)
    # As a walk that lists each folder by name has them.
    assert below(tmp_path, found) == [
        "C.png",
        "a/2.JPG",
        "a/b/1.png",
        "a-c/1.png",
        "a.png",
        "b.jpeg",
    ]
    sizes = {os.path.relpath(image.path, tmp_path): image.size for image in found.images}
    assert sizes == {name: len(name) for name in names}


def test_what_is_passed_over_is_counted(tmp_path):
    fill(tmp_path, *(f"{i}.heic" for i in range(1200)), "1.SVG", "2.svg", "plain", "1.png~")
    fill(tmp_path, "Thumbs.db", "desktop.ini", "labels.csv", "._1.png", ".DS_Store", ".old.png")
    fill(tmp_path, "@eaDir/1.png/small.jpg", "b/@eaDir/2.png", ".thumbnails/1.png", "b/1.png")
    fill(tmp_path, "__MACOSX/._1.png", "lost+found/1.png", "$RECYCLE.BIN/1.png")
    (found,) = find_images(tmp_path)
    assert below(tmp_path, found) == ["b/1.png"]
    assert found.passed_over() == (
        "1,200 .heic, 1 .png~, 2 .svg, 1 hidden, 1 without an extension, 1 folder $RECYCLE.BIN, "
        "1 folder .thumbnails, 2 folders @eaDir, 1 folder __MACOSX, 1 folder lost+found"
    )


def test_a_line_of_what_is_passed_over_stays_short(tmp_path):
    fill(tmp_path, *(f"1.kind{i:02}" for i in range(30)))
    assert find_images(tmp_path)[0].passed_over().endswith("1 .kind07, 22 others")


def test_texts_alone_are_not_worth_a_word(tmp_path):
    fill(tmp_path, "a.png", "a.txt", "b.json", "c.xml", "Thumbs.db", "._a.png")
    assert find_images(tmp_path)[0].passed_over() == ""


@pytest.mark.parametrize(
    ("link", "target"),
    [("self", "."), ("b/up", ".."), ("b/root", "/"), ("b/b", "../b"), ("twice", "b")],
)
def test_links_in_a_loop_are_cut(tmp_path, link, target):
    fill(tmp_path / "photos", "1.png", "b/2.png")
    (tmp_path / "photos" / link).symlink_to(target)
    (found,) = find_images(tmp_path / "photos")
    assert below(tmp_path / "photos", found) == ["1.png", "b/2.png"]
    assert found.passed_over() == f"1 link to a folder read already ({found.links[0]})"


def test_folders_that_link_to_each_other_are_read_once(tmp_path):
    for i in range(12):
        fill(tmp_path, f"{i}/{i}.png")
        for j in range(12):
            (tmp_path / f"{i}/link{j}").symlink_to(f"../{j}")
    (found,) = find_images(tmp_path)
    assert len(found.images) == 12


def test_folders_elsewhere_are_followed(tmp_path):
    fill(tmp_path, "store/1.png", "store/deep/2.png", "photos/own/3.png")
    (tmp_path / "photos/other").symlink_to(tmp_path / "store")
    (found,) = find_images(tmp_path / "photos")
    assert below(tmp_path / "photos", found) == ["other/1.png", "other/deep/2.png", "own/3.png"]
    assert not found.links


def test_a_folder_stands_where_it_is_and_not_where_a_link_to_it_is(tmp_path):
    fill(tmp_path, "banana/yellow/1.png", "apple/2.png")
    (tmp_path / "apple/banana").symlink_to("../banana")
    apple, banana = find_images(tmp_path / "apple", tmp_path / "banana")
    assert below(tmp_path, apple) == ["apple/2.png"]
    assert below(tmp_path, banana) == ["banana/yellow/1.png"]


def test_a_link_to_itself_is_no_folder(tmp_path):
    (tmp_path / "a").symlink_to("a")
    (tmp_path / "b.png").symlink_to("b.png")
    (found,) = find_images(tmp_path)
    assert below(tmp_path, found) == ["b.png"]
    with pytest.raises(OSError, match="Too many levels"):
        read_image_file(found.images[0].path)


@pytest.fixture
def deep(tmp_path):
    """1,500 nested folders, the last of which has an image; pytest could not remove them."""
    there = os.getcwd()
    os.chdir(tmp_path)
    try:
        for _ in range(1500):
            os.mkdir("d")
            os.chdir("d")
        open("1.png", "w").close()
        yield tmp_path
        os.remove("1.png")
        for _ in range(1500):
            os.chdir("..")
            os.rmdir("d")
    finally:
        os.chdir(there)


def test_any_depth_is_walked(deep):
    (found,) = find_images(deep)
    assert len(found.images) == 1 and holds_image(str(deep))


def test_a_folder_that_cannot_be_listed_is_named(tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DataError, match=r"^/.*: cannot be listed: Permission denied$"):
        find_images(tmp_path)


def test_only_regular_files_are_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket.png"))
    (tmp_path / "device.png").symlink_to("/dev/zero")
    (tmp_path / "folder.png").mkdir()
    for name in ("pipe.png", "socket.png", "device.png", "folder.png"):
        with pytest.raises(UnreadableError, match="not a regular file"):
            read_image_file(tmp_path / name)
    with pytest.raises(UnreadableError, match="not a regular file"):
        InMemory([str(tmp_path / "pipe.png")], ("a",))[0]


def test_a_file_that_becomes_a_pipe_does_not_block(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "1.png")
    fill(tmp_path, "2.png")
    regular = os.stat(tmp_path / "2.png")
    monkeypatch.setattr(os, "stat", lambda path: regular)
    with pytest.raises(UnreadableError, match="not a regular file"):
        read_image_file(tmp_path / "1.png")


def test_no_file_is_read_beyond_a_sane_size(tmp_path):
    for size, name in ((6 << 30, "huge.png"), (MAX_BYTES + 1, "large.png")):
        with open(tmp_path / name, "wb") as file:
            file.truncate(size)  # sparse
        with pytest.raises(UnreadableError, match=f"{size:,} bytes, more than 400,000,000"):
            read_image_file(tmp_path / name)
