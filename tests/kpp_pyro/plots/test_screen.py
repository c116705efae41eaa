"""Pictures for a screen: every pixel of a tile is in its place, and frames stand around what they mean."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from kpp_pyro.plots.screen import Frame, Grid, enlarged, pictures_of, signed, to_png

RED = (255, 0, 0)


def numbered(tiles, height, width):
    """Tiles (N, h, w, 3) in which no two pixels are alike."""
    numbers = np.arange(tiles * height * width).reshape(tiles, height, width)
    return np.stack([numbers % 251, numbers // 251, numbers * 0], -1).astype(np.uint8)


@pytest.mark.parametrize("columns", [1, 3, 5])
def test_every_pixel_of_every_tile_is_in_its_place(columns):
    grid, tiles = Grid(5, 3, 4, columns, zoom=2, gap=3), numbered(5, 3, 4)
    picture = grid.arrange(tiles)
    assert picture.shape == (*grid.shape, 3)
    for n in range(5):
        top, left = (n // columns) * (3 * 2 + 3), (n % columns) * (4 * 2 + 3)
        for y in range(3 * 2):
            for x in range(4 * 2):
                assert (picture[top + y, left + x] == tiles[n, y // 2, x // 2]).all()


def test_what_is_found_at_a_place_is_what_was_drawn_there():
    grid, tiles = Grid(5, 3, 4, 3, zoom=2, gap=3), numbered(5, 3, 4)
    picture = grid.arrange(tiles)
    height, width = grid.shape
    seen = set()
    for y in range(height):
        for x in range(width):
            found = grid.find((x + 0.5) / width, (y + 0.5) / height)
            if found is None:
                assert y > 3 * 2 and x > 2 * (4 * 2 + 3) - 3  # the sixth place, which is empty
            elif found[1] < 1 and found[2] < 1:
                tile = found[0]
                assert (picture[y, x] == tiles[tile, int(found[2] * 3), int(found[1] * 4)]).all()
                seen.add(tile)
    assert seen == set(range(5))
    assert grid.find(-0.1, 0.5) is None and grid.find(0.5, 1.5) is None


@pytest.mark.parametrize(
    ("tiles", "tile", "columns", "zoom"),
    [(4, (20, 40), 2, 7), (50, (8, 8), 10, 7), (32, (28, 28), 8, 1), (1, (16, 16), 1, 22), (3, (900, 9), 1, 1)],
)
def test_a_fitting_grid_is_as_large_as_it_can_be(tiles, tile, columns, zoom):
    most = (360, 640) if tiles != 32 else (150, 400)
    grid = Grid.fitting(tiles, tile, most)
    assert (grid.columns, grid.zoom) == (columns, zoom)
    if tile[0] < most[0]:
        assert grid.shape[0] <= most[0] and grid.shape[1] <= most[1]
        larger = [Grid(tiles, *tile, n, zoom + 1).shape for n in range(1, tiles + 1)]
        assert all(height > most[0] or width > most[1] for height, width in larger)


def test_frames_stand_inside_the_edges_of_their_boxes_on_every_tile():
    grid = Grid(2, 10, 10, 2, zoom=3, gap=4)
    picture = grid.arrange(np.zeros((2, 10, 10, 3), np.uint8))
    grid.frame(picture, [Frame((2, 1, 4, 5), RED, line=2)])
    for left in (0, 34):
        marked = (picture[:, left : left + 30] == RED).all(-1)
        expected = np.zeros((30, 30), bool)
        expected[3:18, 6:18] = True
        expected[5:16, 8:16] = False
        assert (marked == expected).all()


def test_frames_on_one_tile_leave_the_others_and_what_leaves_the_tile_is_cut_off():
    grid = Grid(2, 4, 4, 2, zoom=2, gap=4)
    picture = grid.arrange(np.zeros((2, 4, 4, 3), np.uint8))
    before = picture.copy()
    grid.frame(picture, [Frame((-1, -1, 9, 9), RED, line=1)], tiles=[1])
    assert (picture[:, :12] == before[:, :12]).all()
    marked = (picture[:, 12:] == RED).all(-1)
    assert marked.sum() == 4 * 8 - 4 and marked[0].all() and marked[:, -1].all()


def test_half_an_opacity_mixes_once_with_what_is_below():
    grid = Grid(1, 4, 4, 1, zoom=1)
    picture = grid.arrange(np.full((1, 4, 4, 3), 100, np.uint8))
    grid.frame(picture, [Frame((0, 0, 4, 4), RED, line=1, opacity=0.5)])
    assert (picture[0] == (178, 50, 50)).all() and (picture[1:3, 1:3] == 100).all()


def test_enlarging_keeps_every_pixel():
    pixels = numbered(2, 3, 4)
    large = enlarged(pixels, 3)
    assert large.shape == (2, 9, 12, 3)
    assert (large[:, 1::3, 1::3] == pixels).all()


def test_grey_images_have_three_equal_channels_and_colours_stay():
    images = torch.tensor([[[[0.0, 0.2], [1.0, 1.5]]]])
    assert pictures_of(images).tolist() == [[[[0] * 3, [51] * 3], [[255] * 3, [255] * 3]]]
    colour = torch.tensor([0.0, 0.2, 1.0]).view(1, 3, 1, 1)
    assert pictures_of(colour).tolist() == [[[[0, 51, 255]]]]


def test_signed_is_white_at_nought_and_red_and_blue_at_either_end():
    blue, white, red = signed(torch.tensor([-2.0, 0.0, 2.0]).view(1, 1, 3))[0, 0].astype(int)
    assert white.min() > 240
    assert red[0] > red[2] + 50 and blue[2] > blue[0] + 50
    assert (signed(torch.zeros(1, 1, 1))[0, 0, 0] == white).all()


def test_a_png_file_holds_the_picture():
    picture = numbered(1, 5, 7)[0]
    assert (np.asarray(Image.open(io.BytesIO(to_png(picture)))) == picture).all()
