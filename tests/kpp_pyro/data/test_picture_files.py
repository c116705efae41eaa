"""Pictures: what is written into a file is what a model sees, whatever the file's format, size and colours."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from PIL import Image

from kpp_pyro.data.picture_files import read_pictures
from kpp_pyro.errors import InputError

SHAPE = (1, 12, 16)


def some_bytes(*size, seed=0):
    return np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8)


def save(folder, name, pixels, mode=None, **options):
    image = Image.fromarray(pixels) if mode is None else Image.fromarray(pixels).convert(mode)
    image.save(folder / name, **options)


def as_image(pixels):
    return torch.from_numpy(pixels.astype(np.float32) / 255)[None]


def luma(red, green, blue):
    return (0.299 * red + 0.587 * green + 0.114 * blue) / 255


def refused(path, *parts):
    return pytest.raises(InputError, match=".*".join(["^" + re.escape(str(path)) + ": expected", *parts]))


def test_a_picture_of_the_right_size_comes_back_bit_for_bit(tmp_path):
    pixels = some_bytes(12, 16)
    save(tmp_path, "a.png", pixels)
    found = read_pictures(tmp_path, SHAPE)
    assert found.dtype == torch.float32 and found.shape == (1, *SHAPE)
    assert torch.equal(found[0], as_image(pixels))


def test_pictures_come_in_the_order_of_their_names(tmp_path):
    pixels = {name: some_bytes(12, 16, seed=seed) for seed, name in enumerate(["c.png", "a.PNG", "b10.png", "b9.png"])}
    for name, values in pixels.items():
        save(tmp_path, name, values)
    expected = torch.stack([as_image(pixels[name]) for name in ("a.PNG", "b10.png", "b9.png", "c.png")])
    assert torch.equal(read_pictures(str(tmp_path), SHAPE), expected)


@pytest.mark.parametrize(("size", "top", "left"), [((12, 30), 0, 7), ((22, 16), 5, 0)])
def test_the_middle_of_a_wider_or_taller_picture_is_kept(tmp_path, size, top, left):
    pixels = some_bytes(*size)
    save(tmp_path, "a.png", pixels)
    assert torch.equal(read_pictures(tmp_path, SHAPE)[0], as_image(pixels[top : top + 12, left : left + 16]))


@pytest.mark.parametrize("size", [(36, 48), (6, 8), (48, 48), (7, 40), (1, 1)])
def test_a_picture_of_one_colour_keeps_it_at_any_size(tmp_path, size):
    save(tmp_path, "a.png", np.full(size, 51, dtype=np.uint8))
    torch.testing.assert_close(read_pictures(tmp_path, SHAPE), torch.full((1, *SHAPE), 0.2))


def test_a_larger_picture_is_scaled_to_the_means_of_its_pixels(tmp_path):
    pixels = np.kron(some_bytes(12, 16), np.ones((5, 5), dtype=np.uint8))
    save(tmp_path, "a.png", np.pad(pixels, ((0, 0), (10, 10))))  # and what is too wide is cut off
    found = read_pictures(tmp_path, SHAPE)[0]
    exact = as_image(pixels[::5, ::5])
    assert (found - exact).abs().mean() < 0.15  # the filter reaches one pixel into the neighbours
    assert found.mean().item() == pytest.approx(exact.mean().item(), abs=0.02)
    assert np.corrcoef(found.flatten(), exact.flatten())[0, 1] > 0.9


def test_a_ramp_keeps_its_slope_when_scaled(tmp_path):
    ramp = np.tile(np.arange(64, dtype=np.uint8) * 4, (48, 1))
    save(tmp_path, "a.png", ramp)
    found = read_pictures(tmp_path, SHAPE)[0, 0]
    expected = torch.from_numpy((ramp.reshape(12, 4, 16, 4).mean((1, 3)) / 255).astype(np.float32))
    torch.testing.assert_close(found[:, 1:-1], expected[:, 1:-1], atol=1e-4, rtol=0)


def test_no_line_is_too_thin_to_be_seen(tmp_path):
    lines = np.tile(np.array([255, 0, 0, 0, 0, 0, 0, 0], dtype=np.uint8), (96, 16))
    for shift in range(8):
        save(tmp_path, f"{shift}.png", np.roll(lines, shift, axis=1))
    found = read_pictures(tmp_path, SHAPE)[..., 1:-1]
    torch.testing.assert_close(found, torch.full_like(found, 1 / 8), atol=0.01, rtol=0)


@pytest.mark.parametrize(("orientation", "turns"), [(1, 0), (3, 2), (6, 3), (8, 1)])
def test_a_photograph_is_upright(tmp_path, orientation, turns):
    pixels = np.zeros((16, 16), dtype=np.uint8)
    pixels[:8, :8] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation  # how the camera was held
    save(tmp_path, "a.jpg", pixels, quality=100, exif=exif)
    expected = as_image(np.ascontiguousarray(np.rot90(pixels, turns)))[None]
    torch.testing.assert_close(read_pictures(tmp_path, (1, 16, 16)), expected, atol=0.02, rtol=0)


@pytest.mark.parametrize(("name", "tolerance"), [("a.png", 0.003), ("a.jpg", 0.02), ("a.gif", 0.02), ("a.webp", 0.02)])
@pytest.mark.parametrize("colour", [(255, 0, 0), (0, 255, 0), (20, 40, 200), (255, 255, 255), (0, 0, 0)], ids=str)
@pytest.mark.filterwarnings("ignore:Webp does not support grayscale conversions")
def test_colour_becomes_grey(tmp_path, name, tolerance, colour):
    save(tmp_path, name, np.full((12, 16, 3), colour, dtype=np.uint8))
    expected = torch.full((1, *SHAPE), luma(*colour))
    torch.testing.assert_close(read_pictures(tmp_path, SHAPE), expected, atol=tolerance, rtol=0)


@pytest.mark.filterwarnings("ignore:Webp does not support grayscale conversions")
def test_formats_agree_on_a_grey_picture(tmp_path):
    pixels = np.kron(some_bytes(3, 4), np.ones((4, 4), dtype=np.uint8))
    save(tmp_path, "a.png", pixels)
    save(tmp_path, "b.gif", pixels)
    save(tmp_path, "c.webp", pixels, "RGB", lossless=True)
    save(tmp_path, "d.jpg", pixels, quality=100)
    found = read_pictures(tmp_path, SHAPE)
    assert found.shape == (4, *SHAPE)
    torch.testing.assert_close(found, as_image(pixels).expand_as(found), atol=0.02, rtol=0)


@pytest.mark.parametrize("name", ["a.bmp", "a.tif", "a.tiff", "a.ppm", "a.pgm"])
def test_formats_without_loss_agree_with_png(tmp_path, name):
    pixels = some_bytes(12, 16, 3) if name != "a.pgm" else some_bytes(12, 16)
    save(tmp_path, name, pixels)
    save(tmp_path, "b.png", pixels)
    found = read_pictures(tmp_path, SHAPE)
    assert torch.equal(found[0], found[1])


@pytest.mark.parametrize("orientation", [1, 6])
def test_a_large_photograph_that_is_decoded_smaller_looks_like_one_that_is_not(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    coarse = Image.fromarray(some_bytes(9, 7, 3))
    picture = coarse.resize((700, 900), Image.Resampling.BICUBIC)
    picture.save(tmp_path / "a.jpg", quality=95, exif=exif)
    picture.save(tmp_path / "b.png", exif=exif)
    photograph, whole = read_pictures(tmp_path, SHAPE)
    torch.testing.assert_close(photograph, whole, atol=0.03, rtol=0)


def test_an_animation_is_its_first_picture(tmp_path):
    first, second = some_bytes(12, 16, seed=1), some_bytes(12, 16, seed=2)
    save(tmp_path, "a.gif", first, save_all=True, append_images=[Image.fromarray(second)])
    torch.testing.assert_close(read_pictures(tmp_path, SHAPE)[0], as_image(first), atol=1e-3, rtol=0)


def test_sixteen_bits_are_read_as_sixteen_bits(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 2**16, (12, 16), dtype=np.uint16)
    save(tmp_path, "a.png", pixels)
    expected = torch.from_numpy(pixels.astype(np.float32) / (2**16 - 1))[None, None]
    torch.testing.assert_close(read_pictures(tmp_path, SHAPE), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("mode", ["1", "P", "LA", "RGBA"])
def test_every_kind_of_png_shows_the_same_picture(tmp_path, mode):
    pixels = some_bytes(12, 16) // 128 * 255
    save(tmp_path, "a.png", pixels, mode)
    assert torch.equal(read_pictures(tmp_path, SHAPE)[0], as_image(pixels))


def test_dark_strokes_on_a_light_ground_are_swapped(tmp_path):
    pixels = some_bytes(24, 40)
    save(tmp_path, "a.png", pixels)
    save(tmp_path, "b.png", 255 - pixels)
    light, dark = read_pictures(tmp_path, SHAPE), read_pictures(tmp_path, SHAPE, dark_on_light=True)
    torch.testing.assert_close(dark, light.flip(0), atol=1e-6, rtol=0)


def test_other_files_are_left_alone(tmp_path):
    pixels = some_bytes(12, 16)
    save(tmp_path, "b.png", pixels)
    (tmp_path / "a.txt").write_text("notes")
    (tmp_path / "a.png.orig").write_text("not a picture")
    (tmp_path / "png").write_text("nor this")
    (tmp_path / "a.png").mkdir()
    save(tmp_path / "a.png", "inside.png", pixels)
    assert torch.equal(read_pictures(tmp_path, SHAPE), as_image(pixels)[None])


@pytest.mark.parametrize("name", ["b.png", "b.jpg", "b.gif", "b.webp"])
@pytest.mark.parametrize("damage", ["empty", "text", "half"])
@pytest.mark.filterwarnings("ignore:Webp does not support grayscale conversions")
def test_a_damaged_picture_is_named(tmp_path, name, damage):
    save(tmp_path, "a.png", some_bytes(12, 16))
    save(tmp_path, name, some_bytes(64, 64, 3))
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(
        {"empty": b"", "text": b"a text, no picture", "half": whole[: len(whole) // 4]}[damage]
    )
    with refused(tmp_path / name, "a picture, found a file that cannot be decoded"):
        read_pictures(tmp_path, SHAPE)


def test_a_folder_without_pictures_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("notes")
    with refused(tmp_path, "pictures", r"\.png", "found none"):
        read_pictures(tmp_path, SHAPE)
    for absent in (tmp_path / "nowhere", tmp_path / "notes.txt"):
        with refused(absent, "a folder of pictures, found no folder"):
            read_pictures(absent, SHAPE)


def test_a_model_of_colour_images_is_refused(tmp_path):
    save(tmp_path, "a.png", some_bytes(12, 16))
    with pytest.raises(InputError, match=r"^image shape: expected one channel, found 3$"):
        read_pictures(tmp_path, (3, 12, 16))


@pytest.mark.parametrize(("dark_on_light", "ink"), [(True, 0), (False, 255)])
def test_what_is_transparent_is_the_ground(tmp_path, dark_on_light, ink):
    pixels = np.zeros((16, 16, 4), dtype=np.uint8)
    pixels[..., :3] = ink
    pixels[4:8, 2:5, 3] = 255  # strokes; the rest is transparent, of whatever colour
    Image.fromarray(pixels).save(tmp_path / "drawing.png")
    strokes = torch.zeros(1, 1, 16, 16)
    strokes[..., 4:8, 2:5] = 1
    assert torch.equal(read_pictures(tmp_path, (1, 16, 16), dark_on_light), strokes)
