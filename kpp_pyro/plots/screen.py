"""Pictures for interactive pages: tensors to uint8 arrays, without Matplotlib figures, in milliseconds.

Figures with axes and titles are in the other files of `kpp_pyro.plots`.
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

_GAP_LEVEL = 128  # grey level of the gaps between tiles, which white and black tiles stand out from
_SIGNED = matplotlib.colormaps["RdBu_r"](np.arange(256), bytes=True)[:, :3]  # (256, 3): blue, white at 0, red


@dataclass(frozen=True)
class Frame:
    """A coloured frame on a tile.

    Attributes:
        box: (left, top, width, height) in pixels of the tile; parts outside the tile are clipped.
        colour: red, green and blue, 0 to 255.
        line: thickness in screen pixels, inside the box.
        opacity: 0 to 1; below 1, the tile shines through.
    """

    box: Sequence[float]
    colour: Colour
    line: int = 2
    opacity: float = 1.0


@dataclass(frozen=True)
class Grid:
    """The layout of a picture of equally large tiles in rows.

    Attributes:
        tiles: number of tiles.
        height: of a tile, in pixels.
        width: of a tile, in pixels.
        columns: tiles per row.
        zoom: screen pixels per pixel of a tile, along each axis.
        gap: screen pixels between tiles.
    """

    tiles: int
    height: int
    width: int
    columns: int
    zoom: int
    gap: int = 4

    @classmethod
    def fitting(cls, tiles: int, tile: tuple[int, int], most: tuple[int, int]) -> Grid:
        """The grid with the largest zoom whose picture has at most the size `most`; zoom 1 if none fits.

        Of several such grids, the one with the fewest empty places is chosen.

        Args:
            tiles: number of tiles.
            tile: (height, width) of a tile, in pixels.
            most: (height, width) of the largest picture, in screen pixels.
        """

        def zoom(columns: int) -> int:
            places = (math.ceil(tiles / columns), columns)
            return min(((most[i] + cls.gap) // places[i] - cls.gap) // tile[i] for i in (0, 1))

        columns = max(range(1, tiles + 1), key=lambda n: (zoom(n), tiles - n * math.ceil(tiles / n)))
        return cls(tiles, *tile, columns, max(1, zoom(columns)))

    @property
    def rows(self) -> int:
        """Number of rows; the last may be short."""
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
        """The tile at (x, y), and the coordinates inside the tile; None if there is no tile.

        All coordinates are from 0 to 1: x and y are fractions of the picture's width and height, the results of the
        tile's. A gap belongs to the tile before it, at coordinate 1.
        """
        height, width = self.shape
        row, down = divmod(y * height, self.height * self.zoom + self.gap)
        column, across = divmod(x * width, self.width * self.zoom + self.gap)
        tile = int(row) * self.columns + int(column)
        if not (0 <= row < self.rows and 0 <= column < self.columns and tile < self.tiles):
            return None
        return tile, min(across / (self.width * self.zoom), 1.0), min(down / (self.height * self.zoom), 1.0)

    def arrange(self, tiles: Picture) -> Picture:
        """Combine tiles (N, h, w, 3) into one picture (height, width, 3)."""
        picture = np.full((*self.shape, 3), _GAP_LEVEL, np.uint8)
        for index, tile in enumerate(enlarged(tiles, self.zoom)):
            top, left = self.corner(index)
            picture[top : top + tile.shape[0], left : left + tile.shape[1]] = tile
        return picture

    def frame(self, picture: Picture, frames: Iterable[Frame], tiles: Iterable[int] | None = None) -> None:
        """Add frames to a picture, in place: on the given tiles, or on all of them."""
        corners = [self.corner(tile) for tile in (range(self.tiles) if tiles is None else tiles)]
        for frame in frames:
            left, top, width, height = (round(side * self.zoom) for side in frame.box)
            right, bottom = min(left + width, self.width * self.zoom), min(top + height, self.height * self.zoom)
            left, top = max(left, 0), max(top, 0)
            for down, across in corners:
                inside = picture[down + top : down + bottom, across + left : across + right]
                edge = np.ones(inside.shape[:2], bool)
                edge[frame.line : -frame.line, frame.line : -frame.line] = False
                mixed = (1 - frame.opacity) * inside[edge] + frame.opacity * np.array(frame.colour)
                inside[edge] = mixed.round().astype(np.uint8)


def enlarged(pixels: Picture, zoom: int) -> Picture:
    """Pictures (..., h, w, 3) enlarged to (..., zoom h, zoom w, 3), without interpolation."""
    return pixels.repeat(zoom, -3).repeat(zoom, -2)


def pictures_of(images: Tensor) -> Picture:
    """Pictures (N, H, W, 3) of images (N, C, H, W) with intensities in [0, 1]; grey for C = 1."""
    levels = (images.detach().float().clamp(0, 1) * 255).round().byte()
    picture: Picture = levels.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).contiguous().cpu().numpy()
    return picture


def signed(values: Tensor) -> Picture:
    """Colour pictures (N, H, W, 3) of numbers (N, H, W): from blue (-m) over white (0) to red (m = max |value|)."""
    values = values.detach().float().cpu()
    limit = float(values.abs().max()) or 1.0
    picture: Picture = _SIGNED[((values / limit + 1) * 127.5).round().byte().numpy()]
    return picture


def to_png(picture: Picture) -> bytes:
    """The PNG file of a picture (H, W, 3), with fast compression."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG", compress_level=1)
    return file.getvalue()
