"""Allocation by content: who shares a block, and that the order of images does not matter."""

from __future__ import annotations

import pytest
import torch

from kpp_pyro.distributions.block_key import BlockKey, KnownBlockKey
from kpp_pyro.errors import InputError
from kpp_pyro.memory.blocks import MemoryLayout, cut_blocks, read
from kpp_pyro.writes.allocate_by_content import AllocateByContentWrite
from kpp_pyro.writes.blocks import AllocateWrite
from kpp_pyro.writes.interface import Encoding

FEATURES, SMALLEST = 24, 0.05
LAYOUTS = {1: MemoryLayout(4, 12, 24, 4, 4), 2: MemoryLayout(4, 12, 24, 4, 4, reads=2)}  # 18 blocks of 64 scalars
both_reads = pytest.mark.parametrize("layout", LAYOUTS.values(), ids=["R=1", "R=2"])


def by_content(layout):
    return AllocateByContentWrite(layout, FEATURES, SMALLEST).double()


def features(episodes, images):
    return torch.randn(episodes, images, FEATURES, dtype=torch.float64)


def encoding_of(contents):
    """An encoding with contents (B, T, R * S)."""
    return Encoding(
        torch.zeros(*contents.shape[:2], FEATURES, dtype=contents.dtype), contents, torch.ones_like(contents)
    )


def random_contents(layout, episodes, images):
    return encoding_of(torch.randn(episodes, images, layout.read_scalars, dtype=torch.float64))


def clustered(layout, spread, episodes, images_each):
    """Contents in as many clusters as there are blocks, in random order, and the cluster of every image."""
    cluster = torch.arange(layout.blocks).repeat(images_each)
    cluster = torch.stack([cluster[torch.randperm(len(cluster))] for _ in range(episodes)])  # (B, T)
    centres = torch.randn(episodes, layout.blocks, layout.read_scalars, dtype=torch.float64)
    contents = centres.gather(1, cluster.unsqueeze(-1).expand(-1, -1, layout.read_scalars))
    return encoding_of(contents + spread * torch.randn_like(contents)), cluster


def mean_square_error(write, encoding):
    found = read(write(encoding), write.key_posterior(encoding).mode, write.addressing).flatten(-4)
    return (found - encoding.latent_loc).square().mean()


@both_reads
@pytest.mark.parametrize("fill", ["one", "some", "all"])
def test_with_room_for_all_every_image_is_read_back_exactly_from_blocks_of_its_own(layout, fill):
    most = layout.blocks // layout.reads
    write = by_content(layout)
    encoding = write.encode(features(3, {"one": 1, "some": most - 2, "all": most}[fill]))
    assert mean_square_error(write, encoding) < 1e-24
    for blocks in write.blocks_of(encoding).flatten(1):
        assert len(blocks.unique()) == len(blocks)
    unused = cut_blocks(write(encoding)[:, 0], layout)[:, encoding.images * layout.reads :]
    assert not unused.any()


def test_images_that_are_all_the_same_are_read_back_too():
    encoding = encoding_of(torch.randn(2, 1, 64, dtype=torch.float64).expand(2, 40, 64))
    assert mean_square_error(by_content(LAYOUTS[1]), encoding) < 1e-24


@pytest.mark.parametrize(("height", "width"), [(8, 8), (12, 24)])  # 4 and 18 blocks
def test_as_many_tight_clusters_as_blocks_get_a_block_each(height, width):
    layout = MemoryLayout(4, height, width, 4, 4)
    write, (encoding, cluster) = by_content(layout), clustered(layout, 0.01, episodes=20, images_each=4)
    blocks = write.blocks_of(encoding)[..., 0]
    together = blocks.unsqueeze(-1) == blocks.unsqueeze(-2)
    alike = cluster.unsqueeze(-1) == cluster.unsqueeze(-2)
    assert (together == alike).double().mean() > 0.98
    assert mean_square_error(write, encoding) < 0.2 * mean_square_error(
        AllocateWrite(layout, FEATURES, SMALLEST), encoding
    )


@pytest.mark.parametrize("images", [19, 36, 90])
@pytest.mark.parametrize("reads", [1, 2])
def test_a_memory_that_is_too_small_keeps_more_than_first_fit_does(images, reads):
    layout = LAYOUTS[reads]
    plane = torch.randn(layout.read_scalars // reads, 3, dtype=torch.float64)  # images are alike in most ways
    contents = torch.randn(10, images, reads, 3, dtype=torch.float64) @ plane.T
    encoding = encoding_of(contents.flatten(-2))
    write, first_fit = by_content(layout), AllocateWrite(layout, FEATURES, SMALLEST)
    assert mean_square_error(write, encoding) < 0.6 * mean_square_error(first_fit, encoding)
    counts = (write.blocks_of(encoding).flatten(1).unsqueeze(-1) == torch.arange(layout.blocks)).sum(1)
    assert counts.max() <= -(-images * reads // layout.blocks)


@both_reads
@pytest.mark.parametrize("images", [5, 40])
def test_the_memory_is_the_adjoint_of_the_read_over_that_of_ones(layout, images):
    write, encoding = by_content(layout), random_contents(layout, 2, images)
    shares = (write.blocks_of(encoding).flatten(1).unsqueeze(-1) == torch.arange(layout.blocks)).double()  # P
    contents = write.contents(encoding).flatten(1, 2)
    keys = write.addressing.key_grid(layout.rows, layout.columns).double()[:, :1].expand(2, -1, -1, -1)  # (B, N, 1, 3)

    def written(what):
        blocks = torch.einsum("bsn,bschw->bnchw", shares, what).unsqueeze(2)
        nothing = torch.zeros(2, 1, *layout.shape, dtype=torch.float64, requires_grad=True)
        (adjoint,) = torch.autograd.grad(read(nothing, keys, write.addressing), nothing, blocks)
        return adjoint

    weight = written(torch.ones_like(contents))
    expected = torch.where(weight > 0.5, written(contents) / weight, 0)
    torch.testing.assert_close(write(encoding), expected, atol=1e-12, rtol=0)


@both_reads
@pytest.mark.parametrize("images", [7, 40])
def test_the_order_of_images_and_of_episodes_does_not_matter(layout, images):
    torch.manual_seed(1)  # of contents without a tie, which rounding would break
    write, given = by_content(layout), features(3, images)
    one, order, others = write.encode(given), torch.randperm(images), torch.tensor([2, 0, 1])
    permuted, moved = write.encode(given[:, order]), write.encode(given[others])
    torch.testing.assert_close(write(permuted), write(one), atol=1e-12, rtol=0)
    assert torch.equal(permuted.blocks, one.blocks[:, order])
    assert torch.equal(write.key_posterior(permuted).mode, write.key_posterior(one).mode[:, order])
    torch.testing.assert_close(write(moved), write(one)[others], atol=1e-12, rtol=0)


@both_reads
def test_cues_find_the_blocks_that_their_contents_are_in(layout):
    write = by_content(layout)
    encoding = random_contents(layout, 3, layout.blocks // layout.reads)
    own, cue = write.key_posterior(encoding), write.key_posterior(encoding, write(encoding))
    assert isinstance(own, KnownBlockKey) and isinstance(cue, BlockKey)
    assert own.has_rsample  # its block is a function of the episode
    torch.testing.assert_close(cue.mode, own.mode)
    assert (cue.block_probs * own.block_probs).sum(-1).min() > 0.99


def test_blocks_are_found_once_and_as_well_without_encode():
    write = by_content(LAYOUTS[2])
    encoding = write.encode(features(2, 20))
    by_hand = Encoding(encoding.features, encoding.latent_loc, encoding.latent_scale)
    assert write.blocks_of(encoding) is encoding.blocks
    assert torch.equal(write.blocks_of(by_hand), encoding.blocks)


@both_reads
@pytest.mark.parametrize("images", [5, 40])
def test_every_parameter_receives_a_gradient(layout, images):
    write = by_content(layout)
    encoding = write.encode(features(2, images))
    outputs = (write(encoding), encoding.latent_scale)
    sum((output * torch.randn_like(output)).sum() for output in outputs).backward()
    for name, parameter in write.named_parameters():
        assert parameter.grad.abs().max() > 1e-6, name
    blocks, contents = encoding.blocks, encoding.latent_loc.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(write(encoding_of(contents)).sum(), contents)  # of the means that blocks hold
    count = (blocks.flatten(1).unsqueeze(-1) == blocks.flatten(1).unsqueeze(-2)).sum(-1).view_as(blocks)
    torch.testing.assert_close(gradient, (1 / count).repeat_interleave(64, -1).to(gradient))


def test_bfloat16_stops_at_the_networks():
    write = AllocateByContentWrite(LAYOUTS[1], FEATURES, SMALLEST, dtype=torch.bfloat16)
    encoding = write.encode(features(2, 30).float())
    results = (write(encoding), encoding.latent_loc, encoding.latent_scale, write.key_posterior(encoding).sample())
    assert {result.dtype for result in results} == {torch.float32}
    assert all(result.isfinite().all() for result in results)


def test_networks_start_like_those_of_the_other_allocation():
    torch.manual_seed(3)
    one = AllocateByContentWrite(LAYOUTS[1], FEATURES, SMALLEST)
    after = torch.rand(1)
    torch.manual_seed(3)
    other = AllocateWrite(LAYOUTS[1], FEATURES, SMALLEST)
    assert torch.equal(torch.rand(1), after)
    for mine, its in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.equal(mine, its)


def test_a_memory_that_blocks_do_not_tile_is_refused():
    with pytest.raises(InputError, match="whole multiples of the block 4x4"):
        AllocateByContentWrite(MemoryLayout(4, 13, 24, 4, 4), FEATURES, SMALLEST)
