"""Pictures: what is written into a file is what a model sees, whatever the file's format, size and colours."""

from __future__ import annotations

import errno
import os
import re
import struct

import numpy as np
import pytest
import torch
from PIL import Image

from kpp_pyro.data.picture_files import read_picture
from kpp_pyro.data.picture_folders import read_pictures
from kpp_pyro.errors import InputError

SHAPE = (1, 12, 16)


def some_bytes(*size, seed=0):
    return np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8)


def save(folder, name, pixels, mode=None, **options):
    image = Image.fromarray(pixels) if mode is None else Image.fromarray(pixels).convert(mode)
    image.save(folder / name, **options)


def write_tiff(path, values):
    """Write an uncompressed TIFF of one channel: Pillow writes neither unsigned 32-bit numbers nor big-endian ones."""
    order = ">" if values.dtype.str[0] == ">" else "<"
    kind = {"u": 1, "i": 2, "f": 3}[values.dtype.kind]
    height, width = values.shape
    tags = {256: width, 257: height, 258: 8 * values.itemsize, 259: 1, 262: 1, 273: 0, 277: 1, 278: height}
    tags |= {279: values.nbytes, 339: kind}
    tags[273] = 8 + 2 + 12 * len(tags) + 4  # where the pixels begin
    entries = b"".join(struct.pack(f"{order}HHII", tag, 4, 1, value) for tag, value in tags.items())
    magic = b"II*\0" if order == "<" else b"MM\0*"
    header = magic + struct.pack(f"{order}IH", 8, len(tags))
    path.write_bytes(header + entries + bytes(4) + values.tobytes())


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


@pytest.mark.parametrize("kind", ["u1", "<u2", ">u2", "<i2", "<i4", "<u4", "<f4"])
def test_values_are_divided_by_the_largest_of_their_type(tmp_path, kind):
    largest = 1 if kind == "<f4" else np.iinfo(kind).max
    values = np.linspace(0, largest, 12 * 16).reshape(12, 16).astype(kind)
    write_tiff(tmp_path / "a.tif", values)
    expected = torch.from_numpy((values.astype(np.float64) / largest).astype(np.float32))[None, None]
    torch.testing.assert_close(read_pictures(tmp_path, SHAPE), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("value", "kind", "sentence"),
    [
        (1.5, "<f4", r"float values in \[0, 1\], found 0 to 1.5"),
        (-3.0, "<f4", r"float values in \[0, 1\], found -3 to 0"),
        (np.nan, "<f4", "float values"),
        (np.inf, "<f4", "float values"),
        (-7, "<i4", "values from 0 to 2147483647, found -7 to 0"),
        (-7, "<i2", "values from 0 to 32767, found -7 to 0"),
    ],
)
def test_values_outside_the_range_are_refused(tmp_path, value, kind, sentence):
    values = np.zeros((12, 16), dtype=kind)
    values[3, 4] = value
    write_tiff(tmp_path / "a.tif", values)
    with refused(tmp_path / "a.tif", sentence):
        read_pictures(tmp_path, SHAPE)


@pytest.mark.parametrize("name", ["a.jfif", "a.avif", "a.jp2", "a.tga", "a.qoi", "a.ico"])
def test_every_format_that_pillow_reads_is_read(tmp_path, name):
    if name.removeprefix("a") not in Image.registered_extensions():
        pytest.skip("not in this Pillow")
    pixels = np.kron(some_bytes(4, 4), np.ones((4, 4), dtype=np.uint8))
    save(tmp_path, name, pixels, "RGB")
    found = read_pictures(tmp_path, (1, 16, 16))
    torch.testing.assert_close(found, as_image(pixels)[None], atol=0.2, rtol=0)
    assert (found - as_image(pixels)).abs().mean() < 0.05


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
    for absent, found in (
        (tmp_path / "nowhere", "a folder of pictures, found none"),
        (tmp_path / "notes.txt", "a picture, found a file"),
    ):
        with refused(absent, found):
            read_pictures(absent, SHAPE)


@pytest.mark.parametrize(
    ("make", "found"),
    [
        (os.mkfifo, "a pipe or a device"),
        (lambda path: path.symlink_to("nowhere"), "none (No such file"),
        (lambda path: path.symlink_to(path), "none (Too many levels of symbolic links"),
    ],
)
def test_a_path_that_is_no_file_is_named(tmp_path, make, found):
    save(tmp_path, "a.png", some_bytes(12, 16))
    make(tmp_path / "b.png")
    with refused(tmp_path / "b.png", "a picture, found " + re.escape(found)):
        read_pictures(tmp_path, SHAPE)


@pytest.mark.parametrize("name", ["a", "a" * 300, "a\0b"])
def test_a_picture_or_a_folder_that_cannot_be_read_is_named(tmp_path, monkeypatch, name):
    def denied(path, *_):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    if name == "a":
        monkeypatch.setattr(os, "stat", denied)
    with pytest.raises(InputError, match="expected a picture, found"):
        read_picture(tmp_path / name, SHAPE)
    monkeypatch.undo()
    monkeypatch.setattr(os, "scandir", denied)
    with refused(tmp_path, re.escape("a folder that can be read, found none (Permission denied)")):
        read_pictures(tmp_path, SHAPE)


def test_more_pixels_than_pillow_allows_are_refused(tmp_path, monkeypatch):
    save(tmp_path, "a.png", some_bytes(12, 16))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 90)
    with refused(tmp_path / "a.png", "a picture, found .* limit of 180 pixels"):
        read_pictures(tmp_path, SHAPE)


def test_a_model_of_two_channels_is_refused(tmp_path):
    save(tmp_path, "a.png", some_bytes(12, 16))
    with pytest.raises(InputError, match=r"^image shape, C: expected one of 1 or 3, found 2$"):
        read_pictures(tmp_path, (2, 12, 16))


@pytest.mark.parametrize("ink", [0, 60, 200, 255])
@pytest.mark.parametrize("below", [0, 255])
@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_strokes_on_a_transparent_ground_stay_visible(tmp_path, ink, below, mode):
    pixels = np.full((16, 16, 4), below, dtype=np.uint8)
    pixels[..., 3] = 0
    pixels[4:8, 2:5] = ink, ink, ink, 255
    drawing = Image.fromarray(pixels)
    if mode == "P":  # with a transparent entry
        drawing = Image.fromarray(pixels[..., 3] // 255).convert("P")
        drawing.putpalette([below] * 3 + [ink] * 3)
        drawing.info["transparency"] = 0
    drawing.convert(mode).save(tmp_path / "drawing.png")
    expected = torch.full((1, 1, 16, 16), 0.0 if ink > 127 else 1.0)  # black below light strokes, white below dark ones
    expected[..., 4:8, 2:5] = ink / 255
    assert torch.equal(read_pictures(tmp_path, (1, 16, 16)), expected)
    assert torch.equal(read_pictures(tmp_path, (1, 16, 16), dark_on_light=True), 1 - expected)


def test_pictures_that_show_nothing_are_noted(tmp_path, capsys):
    for number, contrast in enumerate([0, 7, 8]):
        pixels = np.full((12, 16), 100, dtype=np.uint8)
        pixels[3, 4] += contrast
        save(tmp_path, f"{number}.png", pixels)
    Image.new("RGBA", (12, 16)).save(tmp_path / "transparent.png")
    read_pictures(tmp_path, SHAPE)
    note = f"note: {tmp_path}: 3 of 4 images looked at are one flat colour; check the files' transparency and range"
    assert capsys.readouterr().err.startswith(note)
    save(tmp_path, "4.png", some_bytes(12, 16))
    save(tmp_path, "5.png", some_bytes(12, 16))
    read_pictures(tmp_path, SHAPE)
    assert capsys.readouterr().err == ""  # only half of them


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_white_is_zero_in_some_tiffs(tmp_path, dtype):
    drawn = np.zeros((16, 16), np.float32)
    drawn[4:12, 4:12] = 0.75
    stored = (1 - drawn) if dtype == np.float32 else ((1 - drawn) * 65535).round()
    Image.fromarray(stored.astype(dtype)).save(tmp_path / "a.tif", tiffinfo={262: 0})
    found = read_pictures(tmp_path, (1, 16, 16))[0, 0]
    torch.testing.assert_close(found, torch.from_numpy(drawn), atol=1e-4, rtol=0)


def test_a_transparent_value_of_16_bits_becomes_the_ground(tmp_path):
    stored = np.zeros((40, 40), np.uint16)
    stored[10:30, 10:30] = 30 * 257
    Image.fromarray(stored).save(tmp_path / "a.png", transparency=0)
    found = read_pictures(tmp_path, (1, 40, 40))[0, 0]
    expected = torch.ones(40, 40)
    expected[10:30, 10:30] = 30 / 255
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
