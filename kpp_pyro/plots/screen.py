"""Pictures for a screen: tensors in, uint8 arrays out, fast enough to follow a hand.

What is drawn to be kept, with axes and titles, is in `kpp_pyro.figures`.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

Picture = NDArray[np.uint8]  # (..., H, W, 3), red, green and blue
Colour = tuple[int, int, int]

_BETWEEN = 226  # grey of the gaps
_SIGNED = matplotlib.colormaps["RdBu_r"](np.arange(256), bytes=True)[:, :3]  # (256, 3): blue, white at 0, red


@dataclass(frozen=True)
class Frame:
    """A box (left, top, width, height) in pixels of a tile, to be drawn `line` screen pixels thick, inside its edge.

    What leaves the tile is cut off; an opacity below 1 lets the tile show through.
    """

    box: Sequence[float]
    colour: Colour
    line: int = 2
    opacity: float = 1.0


@dataclass(frozen=True)
class Grid:
    """Tiles of equal size in rows, enlarged to `zoom` x `zoom` screen pixels a pixel, `gap` screen pixels apart."""

    tiles: int
    height: int
    width: int
    columns: int
    zoom: int
    gap: int = 4

    @classmethod
    def fitting(cls, tiles: int, tile: tuple[int, int], most: tuple[int, int]) -> Grid:
        """The grid of tiles (height, width) with the largest zoom that a picture of `most` (height, width) allows.

        Of those equally large, the one with the fewest places left empty. Where not even zoom 1 fits, it is 1.
        """

        def zoom(columns: int) -> int:
            places = (math.ceil(tiles / columns), columns)
            return min(((most[i] + cls.gap) // places[i] - cls.gap) // tile[i] for i in (0, 1))

        columns = max(range(1, tiles + 1), key=lambda n: (zoom(n), tiles - n * math.ceil(tiles / n)))
        return cls(tiles, *tile, columns, max(1, zoom(columns)))

    @property
    def rows(self) -> int:
        """Rows of tiles, the last of which may be short."""
        return math.ceil(self.tiles / self.columns)

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width) of the picture, in screen pixels."""
        across, down = self.width * self.zoom + self.gap, self.height * self.zoom + self.gap
        return self.rows * down - self.gap, self.columns * across - self.gap

    def corner(self, tile: int) -> tuple[int, int]:
        """(top, left) of a tile in the picture."""
        row, column = divmod(tile, self.columns)
        return row * (self.height * self.zoom + self.gap), column * (self.width * self.zoom + self.gap)

    def find(self, x: float, y: float) -> tuple[int, float, float] | None:
        """The tile at (x, y), shares of the picture from 0 to 1, and the shares of the tile; None where there is none.

        A gap belongs to the tile before it, at the share 1.
        """
        height, width = self.shape
        row, down = divmod(y * height, self.height * self.zoom + self.gap)
        column, across = divmod(x * width, self.width * self.zoom + self.gap)
        tile = int(row) * self.columns + int(column)
        if not (0 <= row < self.rows and 0 <= column < self.columns and tile < self.tiles):
            return None
        return tile, min(across / (self.width * self.zoom), 1.0), min(down / (self.height * self.zoom), 1.0)

    def draw(self, tiles: Picture) -> Picture:
        """Draw tiles (N, h, w, 3) into one picture."""
        picture = np.full((*self.shape, 3), _BETWEEN, np.uint8)
        for index, tile in enumerate(enlarged(tiles, self.zoom)):
            top, left = self.corner(index)
            picture[top : top + tile.shape[0], left : left + tile.shape[1]] = tile
        return picture

    def frame(self, picture: Picture, frames: Iterable[Frame], tiles: Iterable[int] | None = None) -> None:
        """Draw frames onto a picture, in place: on the given tiles, or on all of them."""
        on = [self.corner(tile) for tile in (range(self.tiles) if tiles is None else tiles)]
        for frame in frames:
            left, top, width, height = (round(side * self.zoom) for side in frame.box)
            right, bottom = min(left + width, self.width * self.zoom), min(top + height, self.height * self.zoom)
            left, top = max(left, 0), max(top, 0)
            for down, across in on:
                inside = picture[down + top : down + bottom, across + left : across + right]
                edge = np.ones(inside.shape[:2], bool)
                edge[frame.line : -frame.line, frame.line : -frame.line] = False
                mixed = (1 - frame.opacity) * inside[edge] + frame.opacity * np.array(frame.colour)
                inside[edge] = mixed.round().astype(np.uint8)


def enlarged(pixels: Picture, zoom: int) -> Picture:
    """Pictures (..., h, w, 3) with every pixel a square of zoom x zoom."""
    return pixels.repeat(zoom, -3).repeat(zoom, -2)


def grey(images: Tensor) -> Picture:
    """Images (N, C, H, W) of intensities in [0, 1], of which the first channel is shown, as (N, H, W, 3)."""
    levels = (images[:, 0].detach().float().clamp(0, 1) * 255).round().byte().cpu().numpy()
    return np.repeat(levels[..., None], 3, -1)


def signed(values: Tensor) -> Picture:
    """Channels (N, H, W) of any numbers as (N, H, W, 3): 0 is white, the largest red, and its negative blue."""
    values = values.detach().float().cpu()
    limit = float(values.abs().max()) or 1.0
    picture: Picture = _SIGNED[((values / limit + 1) * 127.5).round().byte().numpy()]
    return picture


def to_png(picture: Picture) -> bytes:
    """A picture (H, W, 3) as a PNG file, compressed fast rather than well."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG", compress_level=1)
    return file.getvalue()
