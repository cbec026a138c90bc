"""Sheets show every picture where it belongs, and colours are those of the maps."""

import numpy as np
import pytest
from PIL import Image

from vit_jax import viz
from vit_jax.viz import colour_maps, inside, sheets


def picture(colour, size=(20, 10)):
    return viz.Picture(Image.new("RGB", size, colour), "caption")


def count(image, colour):
    """Returns the number of pixels of a colour."""
    return (np.asarray(image) == colour).all(axis=-1).sum()


def test_colours_are_those_of_the_table_and_linear_between_them():
    for name, text in colour_maps.COLOUR_MAPS.items():
        first, *_, last = (list(bytes.fromhex(part)) for part in text.split())
        assert len(text.split()) == 10
        values = np.array([-1.0, 0.0, 1.0, 2.0])
        found = colour_maps.to_colours(values, name)
        np.testing.assert_array_equal(found, [first, first, last, last])
        shades = colour_maps.to_colours(np.linspace(0, 1, 50), name).astype(float)
        assert (np.diff(shades @ [0.2126, 0.7152, 0.0722]) > 0).all()  # brighter with the number


def test_a_sheet_has_every_picture_in_full():
    colours = [(i, 10, 200) for i in range(5)]
    rows = [
        viz.Row("three", [picture(colour) for colour in colours[:3]]),
        viz.Row("a title that is wider than the pictures below it", [picture(colours[3])]),
        viz.Row("", [viz.Picture(picture(colours[4]).image)]),
    ]
    for columns in (1, 2, 9):
        image = viz.sheet(rows, columns)
        assert [count(image, colour) for colour in colours] == [200] * 5
    below = np.argwhere((np.asarray(viz.sheet(rows, 2)) == colours[2]).all(axis=-1))
    above = np.argwhere((np.asarray(viz.sheet(rows, 2)) == colours[0]).all(axis=-1))
    assert below[0][1] == above[0][1] and below[0][0] > above[-1][0]


def test_a_long_caption_is_cut():
    assert sheets._shorten("short", 200) == "short"
    cut = sheets._shorten("a caption that is far too long", 60)
    assert cut.endswith("…") and sheets._font().getlength(cut) <= 60


def test_a_map_marks_its_largest_patch():
    values = np.array([[0.0, 0.1], [0.2, 0.0]], np.float32)
    pixels = np.full((4, 4, 1), 100, np.uint8)
    image = np.asarray(viz.map_on_image(pixels, values, width=40)).astype(int)
    top, bottom = colour_maps.to_colours(np.array([0.0, 1.0]), "inferno").astype(int)
    np.testing.assert_allclose(image[30, 10], 10 + 0.9 * bottom, atol=2)
    np.testing.assert_allclose(image[10, 10], 60 + 0.4 * top, atol=2)
    dark = np.asarray(viz.map_on_image(pixels, np.zeros((2, 2), np.float32), width=40))
    assert len(np.unique(dark.reshape(-1, 3), axis=0)) == 1


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_a_plain_image_keeps_its_pixels_and_its_shape(channels):
    pixels = np.random.default_rng(0).integers(0, 256, (3, 6, channels), np.uint8)
    image = viz.plain_image(pixels, 60)
    assert image.size == (60, 30)
    np.testing.assert_array_equal(np.asarray(image)[5::10, 5::10, 0], pixels[..., 0])


def test_patch_colours_are_squares_of_one_colour():
    colours = np.random.default_rng(0).uniform(size=(2, 3, 3))
    shown = np.asarray(viz.patch_colours(colours, (30, 20)))
    np.testing.assert_array_equal(shown[5::10, 5::10], (255 * colours).round())


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_a_filter_is_grey_where_it_is_0(channels):
    weights = np.zeros((2, 2, channels), np.float32)
    weights[0, 1] = -3
    image = np.asarray(inside._filter(weights, 8)).astype(int)
    np.testing.assert_array_equal(image[0, 7], [0] * 3)
    np.testing.assert_allclose(image[7, 0], [127.5] * 3, atol=0.5)


def test_a_filter_sheet_has_all_components_and_the_first_filters():
    filters = np.ones((200, 2, 2, 1), np.float32)
    image = viz.filter_sheet(filters, -filters[:3], [0.5, 0.25, 0.1], width=8)
    assert count(image, (255,) * 3) > 126 * 64
    assert count(image, (0,) * 3) == 3 * 64


@pytest.mark.parametrize("grid", [(2, 3), (20, 4)])
def test_a_similarity_sheet_has_a_tile_for_each_shown_position(grid):
    similarity = np.full((*grid, *grid), -1.0, np.float32)
    image = viz.similarity_sheet(similarity, side=80)
    tiles = min(grid[0], 16) * min(grid[1], 16)
    area = count(image, colour_maps.to_colours(np.zeros(()), "viridis"))
    zoom = round(np.sqrt(area / tiles / (grid[0] * grid[1])))
    assert abs(area - tiles * grid[0] * grid[1] * zoom**2) <= 12  # and the end of the bar


def test_distances_are_drawn_for_every_head():
    distances = {"blocks_0": np.array([1.0, 2.0]), "blocks_1": np.array([3.0, 5.0])}
    (axes,) = viz.attention_distances(distances).axes
    drawn = [line.get_ydata().tolist() for line in axes.lines]
    assert drawn == [[1, 2], [3, 5], [1.5, 4]]
    assert [label.get_text() for label in axes.get_xticklabels()] == list(distances)


def test_distances_that_are_near_each_other_are_not_cut_off():
    (axes,) = viz.attention_distances({"blocks_0": np.array([7.9, 8.0])}).axes
    assert axes.get_ylim() == (0, pytest.approx(8.64))
    (axes,) = viz.attention_distances({"blocks_0": np.zeros(2)}).axes
    assert axes.get_ylim() == (0, 1)


def test_a_bias_sheet_has_a_picture_for_each_head():
    biases = {"blocks_0": np.arange(30, dtype=np.float32).reshape(2, 3, 5)}
    image = viz.bias_sheet(biases, width=50)
    for value in (0.0, 1.0):
        colour = colour_maps.to_colours(np.array(value), "viridis")
        assert count(image, colour) == 2 * 10 * 10
