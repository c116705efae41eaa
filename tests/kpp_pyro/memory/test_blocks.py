"""The block memory: keys become places, places are read and written through, and blocks are cut and joined."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from kpp_pyro.errors import InputError
from kpp_pyro.memory.blocks import Addressing, MemoryLayout, cut_blocks, join_blocks, read

LAYOUTS = {
    "square": MemoryLayout(2, 8, 8, 4, 4),
    "two reads": MemoryLayout(1, 6, 9, 2, 3, reads=2),
    "does not tile": MemoryLayout(3, 7, 11, 3, 2, reads=2),
    "one row": MemoryLayout(2, 3, 10, 3, 2),
    "whole": MemoryLayout(1, 4, 6, 4, 6),
}
every_layout = pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
TILED = MemoryLayout(2, 6, 12, 2, 3)  # 3 rows of 4 blocks


def random_memory(layout, *batch):
    return torch.randn(*batch, 1, *layout.shape, dtype=torch.float64)


def random_key(layout, *batch, spread=1.0):
    return spread * torch.randn(*batch, layout.reads, 3, dtype=torch.float64)


def key_of(scale, x, y):
    """Key with these values of the normal CDF."""
    return torch.special.ndtri(torch.tensor([scale, x, y], dtype=torch.float64))


def corner_by_hand(cdf, free, steps, addressing):
    """First memory pixel of a block that can move by `free` pixels, for one axis."""
    if steps == 1:
        return free / 2
    for border in range(1, steps):
        distance = cdf * steps - border
        if abs(distance) < addressing.edge / 2:
            return (border - 0.5 + distance / addressing.edge) * free / (steps - 1)
    return min(math.floor(cdf * steps), steps - 1) * free / (steps - 1)


def bilinear_by_hand(image, down, across):
    """Value between pixel centres (0, 0) ... (H - 1, W - 1), those at the border repeated outwards."""
    top, left = math.floor(down), math.floor(across)
    value = 0.0
    for row, column in itertools.product((top, top + 1), (left, left + 1)):
        weight = (1 - abs(down - row)) * (1 - abs(across - column))
        value += weight * image[min(max(row, 0), image.shape[0] - 1), min(max(column, 0), image.shape[1] - 1)]
    return value


def read_by_hand(memory, key, addressing):
    """Read one memory (C, H, W) through one key (3,), numpy and loops only."""
    layout = addressing.layout
    scale, x, y = ((1 + math.erf(float(k) / math.sqrt(2))) / 2 for k in key)
    scale = max(0.0, (scale - (1 - addressing.broad)) / addressing.broad)
    zoom = 1 + scale * (min(layout.height / layout.block_height, layout.width / layout.block_width) - 1)
    left = corner_by_hand(x, layout.width - zoom * layout.block_width, layout.columns, addressing)
    top = corner_by_hand(y, layout.height - zoom * layout.block_height, layout.rows, addressing)
    block = np.empty(layout.block_shape)
    for channel, i, j in np.ndindex(block.shape):
        block[channel, i, j] = bilinear_by_hand(
            memory[channel], top + (i + 0.5) * zoom - 0.5, left + (j + 0.5) * zoom - 0.5
        )
    return block


@every_layout
def test_the_read_equals_a_slow_double_loop(layout):
    addressing = Addressing(layout, edge=0.3, broad=0.4)  # wide, so that random keys fall on every part
    memory, key = random_memory(layout, 2), random_key(layout, 2, 4, spread=1.5)
    blocks = read(memory, key, addressing)
    assert blocks.shape == (2, 4, layout.reads, *layout.block_shape)
    for episode, image, r in np.ndindex(2, 4, layout.reads):
        expected = read_by_hand(memory[episode, 0].numpy(), key[episode, image, r].numpy(), addressing)
        np.testing.assert_allclose(blocks[episode, image, r].numpy(), expected, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("layout", [TILED, LAYOUTS["one row"], LAYOUTS["whole"]], ids=["tiled", "one row", "whole"])
def test_keys_in_a_cell_read_its_block_and_keys_just_beyond_its_inner_edges_do_not(layout, dtype):
    addressing, beyond = Addressing(layout), 1e-4
    memory = random_memory(layout, 1).to(dtype)
    blocks, tolerance = cut_blocks(memory[0, 0], layout), 1e-12 if dtype == torch.float64 else 1e-5

    def difference(cdf):  # (N, 3)
        found = read(memory, torch.special.ndtri(cdf).view(1, -1, 1, 3), addressing)[0, :, 0]
        return (found - blocks).abs().flatten(1).amax(-1)

    low, high = addressing.cells(torch.arange(layout.blocks), dtype)
    margin = (high - low) * 1e-5
    for corner in itertools.product((False, True), repeat=3):  # of the whole cell, at the border to infinity
        inside = torch.where(torch.tensor(corner), high - margin * (high < 1), low + margin * (low > 0))
        assert (difference(inside) < tolerance).all()
    for axis, (end, sign) in itertools.product((1, 2), ((low, -1), (high, 1))):
        outside = (low + high) / 2
        outside[:, axis] = end[:, axis] + sign * beyond
        inner = (end[:, axis] > 0) & (end[:, axis] < 1)
        assert (difference(outside.clamp(0, 1))[inner] > 100 * tolerance).all()


def test_cells_leave_only_edges_between_blocks_and_broad_reads():
    addressing = Addressing(TILED, edge=0.1, broad=0.2)
    low, high = addressing.cells(torch.arange(TILED.blocks), torch.float64)
    across, down = (1 - (steps - 1) * 0.1 / steps for steps in (TILED.columns, TILED.rows))
    masses = addressing.cell_masses(low)
    torch.testing.assert_close(masses, (high - low).prod(-1))
    torch.testing.assert_close(masses.sum(), torch.tensor(0.8 * across * down, dtype=torch.float64))
    assert (low[:, 0] == 0).all() and (high[:, 0] == 0.8).all()


def test_gradients_of_the_read_equal_finite_differences():
    layout = MemoryLayout(2, 4, 5, 2, 2, reads=2)
    addressing = Addressing(layout, edge=0.5, broad=0.5)
    memory = random_memory(layout, 2).requires_grad_()
    key = random_key(layout, 2, 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda m, k: read(m, k, addressing), (memory, key))
    (slope,) = torch.autograd.grad(read(memory, key, addressing).sum(), key)
    assert (slope != 0).any()


@pytest.mark.parametrize("scale", [40.0, math.inf])
def test_the_identity_key_returns_the_grid_of_the_memory(scale):
    layout = LAYOUTS["whole"]
    memory, key = random_memory(layout, 2), torch.tensor([scale, 0.0, 0.0], dtype=torch.float64).expand(2, 3, 1, 3)
    blocks = read(memory, key, Addressing(layout))
    torch.testing.assert_close(blocks, memory.unsqueeze(1).expand_as(blocks), atol=1e-14, rtol=0)


@pytest.mark.parametrize("scale", [40.0, math.inf])
def test_the_largest_scale_reads_the_whole_memory_at_a_lower_resolution(scale):
    layout = LAYOUTS["square"]
    memory, key = random_memory(layout, 2), torch.tensor([scale, 0.0, 0.0], dtype=torch.float64).expand(2, 1, 1, 3)
    blocks = read(memory, key, Addressing(layout))
    torch.testing.assert_close(blocks[:, 0, 0], F.avg_pool2d(memory[:, 0], 2))  # zoom 2: between four pixels


@every_layout
def test_no_key_leaves_the_memory(layout):
    addressing = Addressing(layout)
    extremes = (-math.inf, -1e3, -6.0, -0.3, 0.0, 1.1, 1e3, math.inf)
    key = torch.tensor(list(itertools.product(extremes, repeat=3)), dtype=torch.float64)
    place = addressing.place(key)
    assert ((place.zoom >= 1) & (place.zoom <= layout.largest_zoom + 1e-12)).all()
    assert (place.centre.abs() + place.half_extent <= 1 + 1e-12).all()
    left, top, width, height = addressing.boxes(key).unbind(-1)
    assert (torch.stack([left, top]) >= -1e-12).all()
    assert (left + width <= layout.width + 1e-12).all() and (top + height <= layout.height + 1e-12).all()
    torch.testing.assert_close(width / layout.block_width, height / layout.block_height)  # isotropic
    blocks = read(random_memory(layout, 1), key.unsqueeze(-2).expand(-1, layout.reads, -1).unsqueeze(0), addressing)
    assert blocks.isfinite().all()


def test_extreme_keys_have_finite_gradients():
    layout = LAYOUTS["square"]
    key = torch.tensor([[-1e3, 1e3, math.inf], [math.inf, -math.inf, 40.0]]).reshape(1, 2, 1, 3).requires_grad_()
    read(random_memory(layout, 1).float(), key, Addressing(layout)).sum().backward()
    assert key.grad.isfinite().all()


def test_leading_particles_broadcast_like_a_loop_over_them():
    layout = LAYOUTS["two reads"]
    addressing = Addressing(layout, edge=0.3)
    memories, keys = random_memory(layout, 3, 2), random_key(layout, 3, 2, 4)
    both = read(memories, keys, addressing)
    one_memory = read(memories[0], keys, addressing)
    one_key = read(memories, keys[0], addressing)
    kept_dimension = read(memories[:1], keys, addressing)
    assert both.shape == (3, 2, 4, 2, *layout.block_shape)
    for particle in range(3):
        torch.testing.assert_close(both[particle], read(memories[particle], keys[particle], addressing))
        torch.testing.assert_close(one_memory[particle], read(memories[0], keys[particle], addressing))
        torch.testing.assert_close(kept_dimension[particle], one_memory[particle])
        torch.testing.assert_close(one_key[particle], read(memories[particle], keys[0], addressing))


def test_cut_blocks_agrees_with_slicing_row_by_row():
    memory = random_memory(TILED, 2)
    blocks = cut_blocks(memory, TILED)
    assert blocks.shape == (2, 1, TILED.blocks, *TILED.block_shape)
    for number in range(TILED.blocks):
        row, column = divmod(number, TILED.columns)
        sliced = memory[..., 2 * row : 2 * row + 2, 3 * column : 3 * column + 3]
        assert torch.equal(blocks[:, :, number], sliced)


def test_join_blocks_is_the_inverse_of_cut_blocks():
    memory = random_memory(TILED, 3, 2)
    assert torch.equal(join_blocks(cut_blocks(memory, TILED), TILED), memory)
    blocks = torch.randn(2, TILED.blocks, *TILED.block_shape)
    assert torch.equal(cut_blocks(join_blocks(blocks, TILED), TILED), blocks)


def test_a_key_in_the_middle_of_a_block_reads_that_block():
    memory, addressing = random_memory(TILED, 1), Addressing(TILED)
    keys, corners = [], []
    for number in range(TILED.blocks):
        row, column = divmod(number, TILED.columns)
        keys.append(key_of(0.5, (column + 0.5) / TILED.columns, (row + 0.5) / TILED.rows))
        corners.append([3.0 * column, 2.0 * row, 3.0, 2.0])
    key = torch.stack(keys)[None, :, None]
    torch.testing.assert_close(
        read(memory, key, addressing)[0, :, 0], cut_blocks(memory, TILED)[0, 0], atol=1e-13, rtol=0
    )
    boxes = torch.tensor(corners, dtype=torch.float64)
    torch.testing.assert_close(addressing.boxes(key)[0, :, 0], boxes, atol=1e-13, rtol=0)


def test_a_read_is_flat_inside_a_block():
    memory, addressing = random_memory(TILED, 1), Addressing(TILED, edge=0.1, broad=0.05)
    number = torch.arange(TILED.blocks).expand(50, -1)
    inside = 0.05 + 0.9 * torch.rand(50, TILED.blocks, 2, dtype=torch.float64)
    inside[:2] = torch.tensor([0.0501, 0.9499], dtype=torch.float64)[:, None, None]  # just before its edges
    x = (number % TILED.columns + inside[..., 0]) / TILED.columns
    y = (number // TILED.columns + inside[..., 1]) / TILED.rows
    scale = 0.95 * torch.rand(50, TILED.blocks, dtype=torch.float64)
    key = torch.special.ndtri(torch.stack([scale, x, y], -1))[None].flatten(1, 2).unsqueeze(-2).requires_grad_()
    blocks = read(memory, key, addressing).reshape(50, TILED.blocks, *TILED.block_shape)
    expected = cut_blocks(memory, TILED)[0].expand_as(blocks)
    torch.testing.assert_close(blocks, expected, atol=1e-13, rtol=0)
    (slope,) = torch.autograd.grad(blocks.square().sum(), key)
    assert not slope.any()


def test_a_read_crosses_to_the_next_block_within_the_edge():
    layout = MemoryLayout(1, 2, 8, 2, 4)
    memory, addressing = random_memory(layout, 1), Addressing(layout, edge=0.02)
    cdf_x = [0.5 - 0.0051, 0.5 - 0.0025, 0.5, 0.5 + 0.0025, 0.5 + 0.0051]  # of the memory: half of it is one block
    key = torch.stack([key_of(0.5, x, 0.5) for x in cdf_x])[None, :, None]
    blocks = read(memory, key, addressing)[0, :, 0]
    for block, shift in zip(blocks, (0, 1, 2, 3, 4), strict=True):
        torch.testing.assert_close(block, memory[0, 0, :, :, shift : shift + 4], atol=1e-11, rtol=0)


def test_only_the_broadest_scales_zoom_out():
    addressing = Addressing(LAYOUTS["square"], broad=0.1)
    key = torch.stack([key_of(scale, 0.25, 0.25) for scale in (0.0, 0.5, 0.8999, 0.95, 1.0)])
    expected = torch.tensor([1, 1, 1, 1.5, 2], dtype=torch.float64)
    torch.testing.assert_close(addressing.place(key).zoom, expected)
    narrow = Addressing(LAYOUTS["square"], broad=0.0)
    assert torch.equal(narrow.place(key).zoom, torch.ones_like(expected))


def test_the_prior_covers_the_memory_evenly():
    key = torch.randn(100_000, 3, dtype=torch.float64)
    left, top, width, height = Addressing(TILED).boxes(key).unbind(-1)
    across, down = left / (TILED.width - width), top / (TILED.height - height)
    blocks = TILED.columns * (down * (TILED.rows - 1)).round() + (across * (TILED.columns - 1)).round()
    counts, mean = torch.bincount(blocks.long(), minlength=TILED.blocks), len(key) / TILED.blocks
    assert (counts - mean).abs().max() < 4 * math.sqrt(mean * (1 - 1 / TILED.blocks))


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"channels": 0}, "memory channels: expected at least 1, found 0"),
        ({"height": 0}, "memory height: .* found 0"),
        ({"width": -3}, "memory width: .* found -3"),
        ({"block_height": 0}, "memory block_height: .* found 0"),
        ({"block_width": -1}, "memory block_width: .* found -1"),
        ({"reads": 0}, "memory reads: .* found 0"),
        ({"block_height": 9}, r"memory block: expected at most the memory's 8x6 \(height x width\), found 9x3"),
        ({"block_width": 7}, r"memory block: .* 8x6 .* found 4x7"),
    ],
)
def test_a_layout_that_cannot_be_is_refused(sizes, message):
    fitting = {"channels": 2, "height": 8, "width": 6, "block_height": 4, "block_width": 3, "reads": 1}
    with pytest.raises(InputError, match=message):
        MemoryLayout(**{**fitting, **sizes})


@pytest.mark.parametrize(("height", "width"), [(7, 12), (6, 13)])
def test_blocks_that_do_not_tile_are_refused(height, width):
    TILED.require_tiling()
    with pytest.raises(InputError, match=f"memory {height}x{width} .* whole multiples of the block 2x3"):
        MemoryLayout(2, height, width, 2, 3).require_tiling()


def test_a_layout_counts_what_it_holds():
    layout = MemoryLayout(3, 7, 11, 3, 2, reads=2)
    assert (layout.rows, layout.columns, layout.blocks) == (2, 5, 10)
    assert layout.shape == (3, 7, 11)
    assert layout.read_scalars == read(random_memory(layout, 1), random_key(layout, 1, 1), Addressing(layout)).numel()
    assert layout.largest_zoom == 7 / 3


@pytest.mark.parametrize("layout", [TILED, LAYOUTS["two reads"], LAYOUTS["one row"], LAYOUTS["whole"]], ids=str)
def test_a_grid_of_as_many_keys_as_blocks_reads_block_by_block(layout):
    memory, addressing = random_memory(layout, 2), Addressing(layout)
    keys = addressing.key_grid(layout.rows, layout.columns).double()
    assert keys.shape == (layout.blocks, layout.reads, 3)
    found = read(memory, keys.expand(2, -1, -1, -1), addressing)  # (B, N, R, C_m, h, w)
    expected = cut_blocks(memory[:, 0], layout)[:, : layout.blocks].unsqueeze(2).expand_as(found)
    torch.testing.assert_close(found, expected, atol=1e-13, rtol=0)


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (2, 5), (4, 3)])
def test_a_grid_of_keys_holds_quantiles_of_the_prior(rows, columns):
    keys = Addressing(LAYOUTS["two reads"]).key_grid(rows, columns, scale=-0.7)
    assert torch.equal(keys[:, 0], keys[:, 1])  # all reads are of one place
    scale, x, y = torch.special.ndtr(keys[:, 0]).view(rows, columns, 3).unbind(-1)
    torch.testing.assert_close(scale, torch.special.ndtr(torch.tensor(-0.7)).expand(rows, columns))
    for row, column in np.ndindex(rows, columns):
        assert x[row, column].item() == pytest.approx((column + 0.5) / columns, abs=1e-6)
        assert y[row, column].item() == pytest.approx((row + 0.5) / rows, abs=1e-6)


@pytest.mark.parametrize(("rows", "columns"), [(0, 3), (3, 0), (-1, 2)])
def test_a_grid_without_rows_or_columns_is_refused(rows, columns):
    with pytest.raises(InputError, match=f"key grid: expected at least one row and one column, found {rows}x{columns}"):
        Addressing(TILED).key_grid(rows, columns)


@every_layout
@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.5, 0.99, 1.0])
@pytest.mark.parametrize("addressing", [{}, {"broad": 0.4}])
def test_the_scale_at_a_share_zooms_that_share_of_the_way_to_the_memory(layout, share, addressing):
    placed = Addressing(layout, **addressing)
    keys = placed.key_grid(2, 3, placed.scale_at(share)).double()
    zoom = placed.place(keys).zoom
    expected = 1 + share * (layout.largest_zoom - 1)
    rounding = 2e-6 / placed.broad  # the CDF ends that far from 0 and 1
    torch.testing.assert_close(zoom, torch.full_like(zoom, expected), atol=rounding * layout.largest_zoom, rtol=0)


def test_the_scale_grows_with_the_share_and_is_finite_at_its_ends():
    scales = [Addressing(TILED).scale_at(share) for share in np.linspace(0, 1, 21)]
    assert all(map(math.isfinite, scales)) and (np.diff(scales) > 0).all()
