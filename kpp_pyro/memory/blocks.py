"""The block memory of Kanerva++ (section 3 of the paper): its layout, the addressing of keys, and the read.

A key holds three standard normal numbers per read: scale, x (column) and y (row). The normal CDF maps each to (0, 1),
so that keys from the prior N(0, I) cover the memory evenly. The addressing maps these numbers to an isotropic affine
map, by which a bilinear spatial transformer (Jaderberg et al. 2015) reads a block of h x w pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from pyro.distributions.util import broadcast_shape
from torch import Size, Tensor

from kpp_pyro.errors import InputError

SCALE, X, Y = 0, 1, 2  # indices into the last axis of a key
KEY_SIZE = 3


@dataclass(frozen=True)
class MemoryLayout:
    """Sizes of a memory of C_m x H_m x W_m scalars, read R times per image in blocks of C_m x h x w.

    Raises:
        InputError: a size below 1, or a block larger than the memory.
    """

    channels: int
    height: int
    width: int
    block_height: int
    block_width: int
    reads: int = 1

    def __post_init__(self) -> None:
        """Check the sizes."""
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
        """Number of scalars in the R reads of one image: R C_m h w."""
        return self.reads * self.channels * self.block_height * self.block_width

    @property
    def rows(self) -> int:
        """Number of whole blocks from top to bottom."""
        return self.height // self.block_height

    @property
    def columns(self) -> int:
        """Number of whole blocks from left to right."""
        return self.width // self.block_width

    @property
    def blocks(self) -> int:
        """N, the number of whole blocks, which are numbered row by row."""
        return self.rows * self.columns

    @property
    def capacity(self) -> int:
        """Number of images that have blocks of their own: N // R."""
        return self.blocks // self.reads

    def written(self, images: int) -> int:
        """Number of blocks that T = `images` images are written to: T R, or all of them."""
        return min(images * self.reads, self.blocks)

    def blocks_in_order(self, images: int, device: torch.device | None = None) -> Tensor:
        """Block (t R + r) mod N of read r of image t, for T = `images` images, (T, R)."""
        order = torch.arange(images * self.reads, device=device)
        return order.remainder(self.blocks).unflatten(0, (images, self.reads))

    @property
    def largest_zoom(self) -> float:
        """Zoom at which a block spans the height or the width of the memory."""
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
    """The places in the memory at which keys read, in coordinates from -1 to 1 between the memory's edges.

    Attributes:
        zoom: memory pixels between neighbouring block pixels, 1 to `largest_zoom`, (..., R).
        centre: centre (x, y) of the block, (..., R, 2).
        half_extent: half the size (x, y) of the block, (..., R, 2).
    """

    zoom: Tensor
    centre: Tensor
    half_extent: Tensor


@dataclass(frozen=True)
class Addressing:
    """The map from keys to placements. For any key, the block is inside the memory.

    The memory is cut into N blocks. All keys inside a block read the same: along x and y, the centre is constant inside
    a block and moves linearly to the next block within `edge` of a block's width. (In the paper, zoom and shift are
    linear in the CDF of the key, so that reads change smoothly.) With u = Phi(scale), the scale of a key decides:

        u <= 1 - broad    one block, zoom 1
        u > 1 - broad     a larger region; the zoom grows linearly in u until the region spans the memory

    Attributes:
        layout: of the memory.
        edge: width of the transition between two blocks, in widths of a block.
        broad: prior probability of a scale that reads more than a block.

    Raises:
        InputError: a fraction outside its range.
    """

    layout: MemoryLayout
    edge: float = 0.02
    broad: float = 0.01

    def __post_init__(self) -> None:
        """Check the fractions; with an edge of 0 the read would be discontinuous."""
        if not (0 < self.edge < 1 and 0 <= self.broad < 1):
            raise InputError(
                f"addressing: expected 0 < edge < 1 and 0 <= broad < 1, found edge {self.edge} and broad {self.broad}"
            )

    def cells(self, blocks: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """The cells of blocks: keys whose CDF values (scale, x, y) lie in a cell read its block and nothing else.

        No other key does.

        Args:
            blocks: block numbers (...).
            dtype: of the result.

        Returns:
            Lowest and highest CDF values, (..., 3) each.
        """
        layout = self.layout
        x = treads((blocks % layout.columns).to(dtype), layout.columns, self.edge)
        y = treads((blocks // layout.columns).to(dtype), layout.rows, self.edge)
        scale = torch.zeros_like(x[0]), torch.full_like(x[0], 1 - self.broad)
        low, high = (torch.stack(axes, -1) for axes in zip(scale, x, y, strict=True))  # in the order of SCALE, X, Y
        return low, high

    def middles(self, blocks: Tensor, dtype: torch.dtype) -> Tensor:
        """Medians of the keys in the cells of blocks (...), (..., 3): each reads its block and nothing else."""
        low, high = self.cells(blocks, dtype)
        return torch.special.ndtri((low + high) / 2)

    def cell_masses(self, like: Tensor) -> Tensor:
        """Prior probabilities P_n of the cells of all blocks, see `cells`, (N,); dtype and device are `like`'s."""
        low, high = self.cells(torch.arange(self.layout.blocks, device=like.device), like.dtype)
        return (high - low).prod(-1)

    def place(self, key: Tensor) -> Placement:
        """Placement of keys (..., R, 3), which are standard normal under the prior."""
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
        placement = self.place(key)
        size = key.new_tensor([self.layout.width, self.layout.height])
        corner = (placement.centre - placement.half_extent + 1) / 2 * size
        return torch.cat([corner, placement.half_extent * size], -1)

    def key_grid(self, rows: int, columns: int, scale: float = 0.0) -> Tensor:
        """Keys (rows * columns, R, 3), evenly spaced under the prior, row by row; all R reads of a key are equal.

        With as many rows and columns as the layout has, key n reads block n.

        Args:
            rows: number of keys along y.
            columns: number of keys along x.
            scale: coordinate SCALE of all keys; 0 is the prior's median.

        Raises:
            InputError: `rows` or `columns` below 1.
        """
        if rows < 1 or columns < 1:
            raise InputError(f"key grid: expected at least one row and one column, found {rows}x{columns}")
        centres = ((torch.arange(size, dtype=torch.float32) + 0.5) / size for size in (columns, rows))
        x, y = map(torch.special.ndtri, centres)
        down, across = torch.meshgrid(y, x, indexing="ij")
        keys = torch.stack([torch.full_like(across, scale), across, down], -1)  # in the order of SCALE, X, Y
        return keys.flatten(0, 1).unsqueeze(-2).expand(-1, self.layout.reads, -1)

    def scale_at(self, share: float) -> float:
        """Coordinate SCALE of keys whose zoom is a share of the way from one block (0) to the whole memory (1)."""
        bounded = min(max(1 - self.broad * (1 - share), 1e-6), 1 - 1e-6)
        return float(torch.special.ndtri(torch.tensor(bounded, dtype=torch.float64)))


def treads(step: Tensor, steps: int, edge: float) -> tuple[Tensor, Tensor]:
    """Lowest and highest value in [0, 1] of the numbered treads of `_staircase`, where it is constant.

    Ramps lie between two treads. Thus the first tread begins at 0 and the last one ends at 1.

    Args:
        step: numbers of treads from 0, as floats, (...).
        steps: number of treads in all.
        edge: width of a ramp, in steps.
    """
    before, after = (edge / 2 * inner.to(step.dtype) for inner in (step > 0, step < steps - 1))
    return (step + before) / steps, (step + 1 - after) / steps


def _staircase(uniform: Tensor, steps: int, edge: float) -> Tensor:
    """Map (0, 1) onto [0, 1] by a staircase of `steps` constant values, with ramps of `edge` steps' width between."""
    if steps == 1:
        return torch.full_like(uniform, 0.5)
    position = uniform * steps
    nearest = position.detach().round().clamp(1, steps - 1)
    value = nearest - 0.5 + ((position - nearest) / edge).clamp(-0.5, 0.5)  # 0 ... steps - 1
    return value / (steps - 1)


def read(memory: Tensor, key: Tensor, addressing: Addressing) -> Tensor:
    """Read blocks of memories at the places of keys, for all images of all episodes at once.

    Args:
        memory: (..., B, 1, C_m, H_m, W_m), float32 or float64.
        key: (..., B, T, R, 3); leading dimensions (particles) broadcast against the memory's.
        addressing: map from keys to places.

    Returns:
        Blocks (..., B, T, R, C_m, h, w): linear in the memory, differentiable in memory and key.
    """
    layout = addressing.layout
    placement = addressing.place(key)
    down, across = _block_offsets(layout, key)
    centre, extent = placement.centre[..., None, None, :], placement.half_extent[..., None, None, :]
    grid = torch.stack(
        torch.broadcast_tensors(
            centre[..., 0] + extent[..., 0] * across,
            centre[..., 1] + extent[..., 1] * down,
        ),
        -1,
    )  # (..., T, R, h, w, 2)
    images, reads = key.shape[-3:-1]
    draws = Size(grid.shape[: max(0, key.dim() - memory.dim() + 1)])  # of keys that read one and the same memory
    episodes = Size(broadcast_shape(memory.shape[:-4], key.shape[len(draws) : -3]))  # (..., B)
    grid = grid.expand(*draws, *episodes, *grid.shape[-5:])
    flat_grid = grid.reshape(draws.numel(), episodes.numel(), -1, layout.block_width, 2).transpose(0, 1).flatten(1, 2)
    flat_memory = memory.squeeze(-4).expand(*episodes, *layout.shape).reshape(-1, *layout.shape)
    sampled = F.grid_sample(
        flat_memory, flat_grid, mode="bilinear", padding_mode="border", align_corners=False
    )  # (N, C_m, K * T * R * h, w): the N memories are not copied for the K draws
    sampled = sampled.unflatten(2, (draws.numel(), images, reads, layout.block_height))
    return sampled.permute(2, 0, 3, 4, 1, 5, 6).reshape(*draws, *episodes, images, reads, *layout.block_shape)


def _block_offsets(layout: MemoryLayout, like: Tensor) -> tuple[Tensor, Tensor]:
    """Centres of a block's pixels in [-1, 1]: down (h, 1) and across (1, w)."""

    def centres(size: int) -> Tensor:
        return (2 * torch.arange(size, dtype=like.dtype, device=like.device) + 1) / size - 1

    return centres(layout.block_height)[:, None], centres(layout.block_width)[None, :]


def cut_blocks(memory: Tensor, layout: MemoryLayout) -> Tensor:
    """Cut memories (..., C_m, H_m, W_m), which blocks tile, into blocks (..., N, C_m, h, w), row by row."""
    tiles = memory.unflatten(-1, (layout.columns, layout.block_width))
    tiles = tiles.unflatten(-3, (layout.rows, layout.block_height))  # (..., C, rows, h, columns, w)
    return tiles.movedim((-4, -2), (-5, -4)).flatten(-5, -4)


def join_blocks(blocks: Tensor, layout: MemoryLayout) -> Tensor:
    """Join blocks (..., N, C_m, h, w) into memories (..., C_m, H_m, W_m): the inverse of `cut_blocks`."""
    tiles = blocks.unflatten(-4, (layout.rows, layout.columns))  # (..., rows, columns, C, h, w)
    tiles = tiles.movedim((-5, -4), (-4, -2))  # (..., C, rows, h, columns, w)
    return tiles.flatten(-2, -1).flatten(-3, -2)
