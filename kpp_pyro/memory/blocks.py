"""The block memory: its layout, the way a key becomes a place in it, and the read.

A key holds three standard normal numbers per read, (scale, x, y). The normal CDF maps each to (0, 1), so that the
key prior N(0, I) covers the memory evenly; an addressing turns them into an isotropic affine map; a bilinear spatial
transformer (Jaderberg et al. 2015) reads an h x w block through it. Kanerva++, section 3. What a read does can be
turned around: its adjoint writes a block through a key.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from kpp_pyro.errors import InputError

SCALE, X, Y = 0, 1, 2  # the coordinates of a key, in the order of its last axis
KEY_SIZE = 3


@dataclass(frozen=True)
class MemoryLayout:
    """Sizes of a memory of C_m x H_m x W_m scalars, read R times per image in blocks of C_m x h x w.

    Raises:
        InputError: a size below one, or a block larger than the memory.
    """

    channels: int
    height: int
    width: int
    block_height: int
    block_width: int
    reads: int = 1

    def __post_init__(self) -> None:
        """Check the sizes against each other."""
        for name in ("channels", "height", "width", "block_height", "block_width", "reads"):
            if getattr(self, name) < 1:
                raise InputError(f"memory {name}: expected at least 1, found {getattr(self, name)}")
        if self.block_height > self.height or self.block_width > self.width:
            raise InputError(
                f"memory block: expected at most the memory's {self.height}x{self.width} (height x width), "
                f"found {self.block_height}x{self.block_width}"
            )

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C_m, H_m, W_m)."""
        return self.channels, self.height, self.width

    @property
    def block_shape(self) -> tuple[int, int, int]:
        """(C_m, h, w)."""
        return self.channels, self.block_height, self.block_width

    @property
    def read_scalars(self) -> int:
        """Number of scalars that the R reads of one image return."""
        return self.reads * self.channels * self.block_height * self.block_width

    @property
    def rows(self) -> int:
        """Blocks that fit below each other."""
        return self.height // self.block_height

    @property
    def columns(self) -> int:
        """Blocks that fit beside each other."""
        return self.width // self.block_width

    @property
    def blocks(self) -> int:
        """Number of whole blocks, numbered row by row."""
        return self.rows * self.columns

    @property
    def largest_zoom(self) -> float:
        """Zoom at which a block first spans the memory in one direction."""
        return min(self.height / self.block_height, self.width / self.block_width)

    def require_tiling(self) -> None:
        """Raise InputError unless equal blocks tile the whole memory."""
        if self.height % self.block_height or self.width % self.block_width:
            raise InputError(
                f"memory {self.height}x{self.width} (height x width): expected whole multiples of the block "
                f"{self.block_height}x{self.block_width}, since blocks are allocated side by side"
            )


@dataclass(frozen=True)
class Placement:
    """Where a read samples the memory.

    Attributes:
        zoom: memory pixels between neighbouring block pixels, 1 to `largest_zoom`, (..., R).
        centre: the block's centre (x, y) in [-1, 1], the memory's edges, (..., R, 2).
        half_extent: half the block's size (x, y) on the same scale, (..., R, 2).
    """

    zoom: Tensor
    centre: Tensor
    half_extent: Tensor


@dataclass(frozen=True)
class Addressing:
    """Turns keys into placements; scale and shift stay inside the memory for any key.

    A read is flat inside a block and sharp at its edges, as a pointer is. (The paper's is smooth: zoom and shift are
    linear in the CDF of the key.) The memory is cut into blocks; along x and y the centre stands still inside a block
    and crosses to the next within `edge` of a block's width; the zoom is 1 for all but the largest `broad` fraction of
    scales, from where it grows to span the memory. Below those, a `semantic` fraction of scales reads a block for what
    it says of other images, see `SemanticReading`.
    """

    layout: MemoryLayout
    edge: float = 0.02
    broad: float = 0.01
    semantic: float = 0.0

    def __post_init__(self) -> None:
        """Check the shares; without an edge the read would not be a function of the key at it."""
        if not (0 < self.edge < 1 and 0 <= self.broad < 1):
            raise InputError(
                f"addressing: expected 0 < edge < 1 and 0 <= broad < 1, found edge {self.edge} and broad {self.broad}"
            )
        if not 0 <= self.semantic < 1 - self.broad:
            raise InputError(f"addressing: expected 0 <= semantic < {1 - self.broad:g}, found {self.semantic}")

    @property
    def sharp(self) -> float:
        """Prior probability of a scale that reads one block, for what was written to it."""
        return 1 - self.broad - self.semantic

    def is_semantic(self, key: Tensor) -> Tensor:
        """Which keys (..., R, 3) read a block for what it says of other images, (..., R)."""
        uniform = torch.special.ndtr(key[..., SCALE])
        return (uniform > self.sharp) & (uniform <= 1 - self.broad)

    def place(self, key: Tensor) -> Placement:
        """Place keys (..., R, 3), standard normal under the prior, in the memory."""
        uniform = torch.special.ndtr(key)
        layout = self.layout
        scale, x, y = uniform[..., SCALE], uniform[..., X], uniform[..., Y]
        scale = ((scale - 1 + self.broad) / self.broad).clamp(0, 1) if self.broad > 0 else scale * 0
        x, y = _staircase(x, layout.columns, self.edge), _staircase(y, layout.rows, self.edge)
        zoom = 1 + (layout.largest_zoom - 1) * scale  # (..., R)
        relative = layout.block_width / layout.width, layout.block_height / layout.height
        half_extent = torch.stack([zoom * relative[0], zoom * relative[1]], -1)  # (..., R, 2)
        centre = (1 - half_extent) * (2 * torch.stack([x, y], -1) - 1)  # (..., R, 2)
        return Placement(zoom, centre, half_extent)

    def boxes(self, key: Tensor) -> Tensor:
        """Boxes (left, top, width, height) in memory pixels that keys (..., R, 3) read, (..., R, 4)."""
        place = self.place(key)
        size = key.new_tensor([self.layout.width, self.layout.height])
        corner = (place.centre - place.half_extent + 1) / 2 * size
        return torch.cat([corner, place.half_extent * size], -1)

    def key_grid(self, rows: int, columns: int, scale: float = 0.0) -> Tensor:
        """Keys (rows * columns, R, 3) evenly spaced under the prior, row by row; all R reads are of the same place.

        With as many rows and columns as there are blocks, key n reads block n.

        Args:
            rows: places along y.
            columns: places along x.
            scale: of all keys, the coordinate itself: 0 is the prior's median.

        Raises:
            InputError: no rows or columns.
        """
        if rows < 1 or columns < 1:
            raise InputError(f"key grid: expected at least one row and one column, found {rows}x{columns}")
        x, y = (torch.special.ndtri((torch.arange(size) + 0.5) / size) for size in (columns, rows))
        down, across = torch.meshgrid(y, x, indexing="ij")
        keys = torch.stack([torch.full_like(across, scale), across, down], -1)  # in the order of SCALE, X, Y
        return keys.flatten(0, 1).unsqueeze(-2).expand(-1, self.layout.reads, -1)

    def scale_at(self, share: float) -> float:
        """Scale of the keys that zoom this share of the way from one block (0) to the memory (1)."""
        bounded = min(max(1 - self.broad * (1 - share), 1e-6), 1 - 1e-6)
        return float(torch.special.ndtri(torch.tensor(bounded, dtype=torch.float64)))


def _staircase(uniform: Tensor, steps: int, edge: float) -> Tensor:
    """Map (0, 1) onto [0, 1] through `steps` flat treads, joined by ramps `edge` of a tread wide."""
    if steps == 1:
        return torch.full_like(uniform, 0.5)
    position = uniform * steps
    nearest = position.detach().round().clamp(1, steps - 1)
    tread = nearest - 0.5 + ((position - nearest) / edge).clamp(-0.5, 0.5)  # 0 ... steps - 1
    return tread / (steps - 1)


def read(memory: Tensor, key: Tensor, addressing: Addressing) -> Tensor:
    """Read blocks of memory through keys, all images of all episodes in one call.

    Args:
        memory: (..., B, 1, C_m, H_m, W_m), float32 or float64.
        key: (..., B, T, R, 3); leading dimensions (particles) broadcast against the memory's.
        addressing: how keys become places.

    Returns:
        Blocks (..., B, T, R, C_m, h, w), bilinear in the memory, differentiable in both.
    """
    layout = addressing.layout
    place = addressing.place(key)
    down, across = _block_offsets(layout, key)
    centre, extent = place.centre[..., None, None, :], place.half_extent[..., None, None, :]
    grid = torch.stack(
        torch.broadcast_tensors(
            centre[..., 0] + extent[..., 0] * across,
            centre[..., 1] + extent[..., 1] * down,
        ),
        -1,
    )  # (..., T, R, h, w, 2)
    batch = torch.broadcast_shapes(memory.shape[:-4], key.shape[:-3])  # (..., B)
    flat_memory = memory.squeeze(-4).expand(*batch, *layout.shape).reshape(-1, *layout.shape)
    images, reads = key.shape[-3:-1]
    flat_grid = grid.expand(*batch, *grid.shape[-5:]).reshape(
        flat_memory.shape[0], images * reads * layout.block_height, layout.block_width, 2
    )
    sampled = F.grid_sample(
        flat_memory, flat_grid, mode="bilinear", padding_mode="border", align_corners=False
    )  # (N, C_m, T * R * h, w)
    sampled = sampled.unflatten(2, (images, reads, layout.block_height)).movedim(1, 3)
    return sampled.reshape(*batch, images, reads, *layout.block_shape)


def _block_offsets(layout: MemoryLayout, like: Tensor) -> tuple[Tensor, Tensor]:
    """Return the pixel centres of a block on [-1, 1]: down (h, 1) and across (1, w)."""

    def centres(size: int) -> Tensor:
        return (2 * torch.arange(size, dtype=like.dtype, device=like.device) + 1) / size - 1

    return centres(layout.block_height)[:, None], centres(layout.block_width)[None, :]


def cut_blocks(memory: Tensor, layout: MemoryLayout) -> Tensor:
    """Cut memories (..., C_m, H_m, W_m) into their blocks (..., N, C_m, h, w), row by row."""
    tiles = memory.unflatten(-1, (layout.columns, layout.block_width))
    tiles = tiles.unflatten(-3, (layout.rows, layout.block_height))  # (..., C, rows, h, columns, w)
    return tiles.movedim((-4, -2), (-5, -4)).flatten(-5, -4)


def join_blocks(blocks: Tensor, layout: MemoryLayout) -> Tensor:
    """Join blocks (..., N, C_m, h, w) into memories (..., C_m, H_m, W_m): the inverse of `cut_blocks`."""
    tiles = blocks.unflatten(-4, (layout.rows, layout.columns))  # (..., rows, columns, C, h, w)
    tiles = tiles.movedim((-5, -4), (-4, -2))  # (..., C, rows, h, columns, w)
    return tiles.flatten(-2, -1).flatten(-3, -2)
