"""Pictures in colour: what is written into a file of any mode is what a model of three channels sees, or of one."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from kpp_pyro.data.picture_files import is_grey, read_picture
from kpp_pyro.data.picture_folders import read_pictures
from kpp_pyro.errors import InputError

SHAPE = (3, 12, 16)
COLOURS = np.array([[200, 30, 60], [20, 180, 90], [250, 240, 10], [5, 5, 5]], np.uint8)


def tiles() -> np.ndarray:
    """Four columns, (48, 64, 3), of one colour each."""
    return np.tile(COLOURS.repeat(16, 0), (48, 1, 1))


def as_image(pixels: np.ndarray) -> Tensor:
    """Intensities (3, H, W) of levels (H, W, 3)."""
    return torch.from_numpy(pixels.astype(np.float32) / 255).permute(2, 0, 1)


def luma(image: Tensor) -> Tensor:
    """Luma (1, H, W) of an image (3, H, W)."""
    return (image * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(0, keepdim=True)


def written(path: Path, mode: str) -> Path:
    """A picture of `tiles` in a mode, without loss where the mode allows it."""
    picture = Image.fromarray(tiles())
    if mode in ("P", "PA"):
        picture = picture.quantize(4)
    picture.convert(mode).save(path)
    return path


def assert_close(found: Tensor, expected: Tensor, levels: float) -> None:
    torch.testing.assert_close(found, expected, atol=levels / 255, rtol=0)


def test_colours_come_back_bit_for_bit_with_the_channels_first(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    found = read_pictures(tmp_path, SHAPE)
    assert found.dtype == torch.float32 and torch.equal(found, as_image(pixels)[None])
    assert torch.equal(read_pictures(tmp_path, SHAPE, dark_on_light=True), 1 - found)


@pytest.mark.parametrize(
    ("mode", "name", "levels"),
    [
        ("RGB", "a.png", 0),
        ("RGBA", "a.png", 0),
        ("RGB", "a.webp", 8),
        ("RGB", "a.jpg", 8),  # YCbCr inside
        ("P", "a.png", 0),
        ("P", "a.gif", 0),
        ("PA", "a.tif", 0),
        ("CMYK", "a.tif", 0),
        ("CMYK", "a.jpg", 8),
        ("LAB", "a.tif", 8),  # of 8 bits: coarse where colours are strong
    ],
)
def test_every_mode_shows_the_same_colours(tmp_path: Path, mode: str, name: str, levels: int) -> None:
    path, inside = written(tmp_path / name, mode), (np.arange(64) % 16 + 4) // 8 == 1  # JPEG mixes colours at edges
    found = read_picture(path, (3, 48, 64))
    assert_close(found[..., inside], as_image(tiles())[..., inside], levels)
    assert_close(read_picture(path, (1, 48, 64))[..., inside], luma(found)[..., inside], 2 if name == "a.jpg" else 0.51)
    assert not is_grey(path)


@pytest.mark.parametrize(
    ("mode", "name"),
    [
        ("1", "a.png"),
        ("L", "a.png"),
        ("L", "a.jpg"),
        ("LA", "a.png"),
        ("P", "a.png"),
        ("P", "a.gif"),
        ("P", "a.bmp"),
        ("I;16", "a.png"),
        ("I", "a.tif"),
        ("F", "a.tif"),
    ],
)
def test_a_grey_picture_has_three_equal_channels(tmp_path: Path, mode: str, name: str) -> None:
    grey = Image.fromarray(tiles()).convert("L")
    if mode in ("I", "I;16", "F"):
        kind, scale = {"I": (np.int32, 2**23), "I;16": (np.uint16, 257), "F": (np.float32, 1 / 255)}[mode]
        grey = Image.fromarray((np.asarray(grey) * np.float64(scale)).astype(kind))
    else:
        grey = grey.convert(mode)
    grey.save(tmp_path / name)
    assert is_grey(tmp_path / name)
    one, three = (read_picture(tmp_path / name, (channels, 12, 16)) for channels in (1, 3))
    assert torch.equal(three, one.expand(3, -1, -1))


def test_a_picture_in_colour_that_looks_grey_counts_as_one_in_colour(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4), (9, 9, 9)).save(tmp_path / "a.png")
    assert not is_grey(tmp_path / "a.png")
    (tmp_path / "b.png").write_text("no picture")
    with pytest.raises(InputError, match=r"b.png: expected a picture, found a file that cannot be decoded"):
        is_grey(tmp_path / "b.png")


def test_a_header_is_enough_to_see_colours(tmp_path: Path) -> None:
    for mode in ("L", "RGB"):
        path = written(tmp_path / f"{mode}.png", mode)
        path.write_bytes(path.read_bytes()[:60])  # the header, and the beginning of the pixels
        assert is_grey(path) == (mode == "L")


def png_of_16_bits(pixels: np.ndarray) -> bytes:
    """A PNG in colour of 16 bits a channel, (H, W, 3), which Pillow does not write."""
    height, width, _ = pixels.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)), (b"IDAT", zlib.compress(rows))]
    packed = [
        struct.pack(">I", len(c)) + t + c + struct.pack(">I", zlib.crc32(t + c)) for t, c in [*chunks, (b"IEND", b"")]
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


def test_sixteen_bits_in_colour_are_scaled_to_eight(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 2**16, (12, 16, 3), dtype=np.uint16)
    pixels[0, 0], pixels[0, 1] = 0, 2**16 - 1
    (tmp_path / "a.png").write_bytes(png_of_16_bits(pixels))
    found = read_picture(tmp_path / "a.png", SHAPE)
    assert (found.permute(1, 2, 0) - torch.from_numpy(pixels / 65535)).abs().max() < 1 / 255
    assert found[:, 0, 0].tolist() == [0, 0, 0] and found[:, 0, 1].tolist() == [1, 1, 1]


@pytest.mark.parametrize("ink", [(200, 0, 0), (255, 255, 100), (0, 0, 255)])
@pytest.mark.parametrize("mode", ["RGBA", "P", "PA"])
def test_colours_on_a_transparent_ground_stay_visible(tmp_path: Path, ink: tuple, mode: str) -> None:
    marked = np.zeros((16, 16), np.uint8)
    marked[4:8, 2:5] = 1
    if mode == "RGBA":
        drawing = Image.fromarray(np.array([(0, 255, 0, 0), (*ink, 255)], np.uint8)[marked])
    else:
        drawing = Image.fromarray(marked).convert("P")
        drawing.putpalette([0, 255, 0, *ink])
        drawing.info["transparency"] = 0
    if mode == "PA":
        drawing = drawing.convert("PA")
        drawing.putalpha(Image.fromarray(marked * 255))
    drawing.save(tmp_path / ("drawing.tif" if mode == "PA" else "drawing.png"))
    ground = 0.0 if luma(torch.tensor(ink).view(3, 1, 1)).item() > 127.5 else 1.0
    expected = torch.full((1, 3, 16, 16), ground)  # black below light ink, white below dark ink
    expected[..., 4:8, 2:5] = torch.tensor(ink).view(3, 1, 1) / 255
    assert torch.equal(read_pictures(tmp_path, (3, 16, 16)), expected)


def test_half_transparent_ink_is_mixed_with_the_ground_in_every_channel(tmp_path: Path) -> None:
    Image.new("RGBA", (4, 4), (200, 100, 0, 51)).save(tmp_path / "a.png")  # a fifth of it, on white: it is dark
    expected = 0.8 + 0.2 * torch.tensor([200, 100, 0]) / 255
    assert_close(read_picture(tmp_path / "a.png", (3, 4, 4)), expected.view(3, 1, 1).expand(3, 4, 4), 1)


@pytest.mark.parametrize(("orientation", "turns"), [(1, 0), (3, 2), (6, 3), (8, 1)])
def test_a_photograph_in_colour_is_upright(tmp_path: Path, orientation: int, turns: int) -> None:
    pixels = np.zeros((16, 16, 3), np.uint8)
    pixels[:8, :8], pixels[8:, 8:] = (250, 20, 20), (20, 20, 250)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(tmp_path / "a.jpg", quality=100, subsampling=0, exif=exif)
    expected = as_image(np.rot90(pixels, turns).copy())
    assert_close(read_picture(tmp_path / "a.jpg", (3, 16, 16)), expected, 5)


def test_channels_are_scaled_and_cropped_like_grey_pictures(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (50, 90, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "all.png")
    found = read_picture(tmp_path / "all.png", SHAPE)
    for channel in range(3):
        Image.fromarray(pixels[..., channel]).save(tmp_path / "one.png")
        assert torch.equal(read_picture(tmp_path / "one.png", (1, 12, 16)), found[channel : channel + 1])


def test_a_large_photograph_decoded_smaller_keeps_its_colours(tmp_path: Path) -> None:
    coarse = Image.fromarray(np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8))
    picture = coarse.resize((800, 600), Image.Resampling.BICUBIC)
    picture.save(tmp_path / "a.jpg", quality=95)
    picture.save(tmp_path / "b.png")
    photograph, whole = read_pictures(tmp_path, SHAPE)
    assert_close(photograph, whole, 8)
