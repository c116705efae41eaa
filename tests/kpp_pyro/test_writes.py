"""The two writes: what they put into a memory can be read back, and does not depend on names."""

from __future__ import annotations

import pyro.distributions as dist
import pytest
import torch

from kpp_pyro.block_key import BlockKey
from kpp_pyro.errors import InputError
from kpp_pyro.memory import MemoryLayout, cut_blocks, join_blocks, read
from kpp_pyro.posteriors import MeanFieldPosterior
from kpp_pyro.writes import AllocateWrite, FeedForwardWrite
from kpp_pyro.writes.interface import Encoding

FEATURES, SMALLEST = 24, 0.05
PERMUTATION = torch.tensor([2, 4, 0, 3, 1])
LAYOUTS = {1: MemoryLayout(4, 12, 24, 4, 4), 2: MemoryLayout(4, 12, 24, 4, 4, reads=2)}  # 18 blocks of 64 scalars
both_reads = pytest.mark.parametrize("layout", LAYOUTS.values(), ids=["R=1", "R=2"])


def allocate(layout, **options):
    return AllocateWrite(layout, FEATURES, SMALLEST, **options).double()


def feed_forward(layout):
    return FeedForwardWrite(layout, FEATURES, 7, SMALLEST, keys(layout)).double()


def keys(layout):
    return MeanFieldPosterior(FEATURES, torch.Size([layout.reads, 3]))


def features(episodes, images):
    return torch.randn(episodes, images, FEATURES, dtype=torch.float64)


def contents(layout, episodes, images):
    """An encoding whose contents are independent normals."""
    loc = torch.randn(episodes, images, layout.read_scalars, dtype=torch.float64)
    return Encoding(features(episodes, images), loc, torch.ones_like(loc))


def read_at_own_keys(write, encoding):
    key = write.key_posterior(encoding).mode
    return read(write(encoding), key, write.addressing).flatten(-4)  # (B, T, R * S)


def permuted(encoding, order):
    return Encoding(encoding.features[:, order], encoding.latent_loc[:, order], encoding.latent_scale[:, order])


@both_reads
@pytest.mark.parametrize("fill", ["one", "some", "all"])
def test_a_read_at_an_images_own_key_returns_exactly_what_was_written(layout, fill):
    most = layout.blocks // layout.reads
    write = allocate(layout)
    encoding = write.encode(features(3, {"one": 1, "some": most - 2, "all": most}[fill]))
    torch.testing.assert_close(read_at_own_keys(write, encoding), encoding.latent_loc, atol=1e-12, rtol=0)


def test_every_sample_of_an_images_own_key_returns_what_was_written():
    write = allocate(LAYOUTS[2])
    encoding = write.encode(features(2, 9))
    key = write.key_posterior(encoding).sample((20,))
    blocks = read(write(encoding), key, write.addressing).flatten(-4)
    torch.testing.assert_close(blocks, encoding.latent_loc.expand_as(blocks), atol=1e-12, rtol=0)


@pytest.mark.parametrize(("reads", "images"), [(1, 19), (1, 47), (2, 10), (2, 31)])
def test_a_shared_block_holds_the_mean_of_those_who_share_it(reads, images):
    layout = LAYOUTS[reads]
    write = allocate(layout)
    encoding = write.encode(features(2, images))
    found = read_at_own_keys(write, encoding).unflatten(-1, (reads, -1))
    written = encoding.latent_loc.unflatten(-1, (reads, -1)).flatten(1, 2)  # (B, T * R, S)
    for order in range(images * reads):
        mean = written[:, order % layout.blocks :: layout.blocks].mean(1)
        torch.testing.assert_close(found[:, order // reads, order % reads], mean, atol=1e-12, rtol=0)


def test_blocks_are_given_out_in_order_and_then_again_from_the_first():
    layout = MemoryLayout(1, 4, 6, 2, 2, reads=2)  # 6 blocks
    assert allocate(layout).own_blocks(5).tolist() == [[0, 1], [2, 3], [4, 5], [0, 1], [2, 3]]
    single = MemoryLayout(1, 4, 6, 2, 2)
    assert allocate(single).own_blocks(8).tolist() == [[0], [1], [2], [3], [4], [5], [0], [1]]


def test_a_block_that_nothing_was_written_to_is_zero():
    layout = LAYOUTS[2]
    write = allocate(layout)
    blocks = cut_blocks(write(write.encode(features(2, 3))), layout)[:, 0]  # 6 of 18 blocks are written
    assert not blocks[:, 6:].any() and blocks[:, :6].all()


def test_the_write_is_differentiable_in_what_is_written():
    layout = MemoryLayout(1, 2, 4, 2, 2, reads=1)
    write, images = allocate(layout), 3  # two blocks: the first is shared
    latent_loc = torch.randn(1, images, layout.read_scalars, dtype=torch.float64, requires_grad=True)
    known = features(1, images)
    assert torch.autograd.gradcheck(lambda loc: write(Encoding(known, loc, loc)), latent_loc)


@both_reads
def test_written_images_match_their_own_blocks(layout):
    write, images = allocate(layout), layout.blocks // layout.reads
    encoding = contents(layout, 3, images)
    probs = write.match(encoding, write(encoding))
    own = write.own_blocks(images).expand(3, -1, -1)
    assert probs.shape == (3, images, layout.reads, layout.blocks)
    assert probs.gather(-1, own.unsqueeze(-1)).min() > 0.99
    posterior = write.key_posterior(encoding, write(encoding))
    torch.testing.assert_close(posterior.mode, write.key_posterior(encoding).mode)


def test_written_images_match_the_blocks_that_they_share():
    layout = LAYOUTS[1]
    write, encoding = allocate(layout), contents(layout, 3, 2 * layout.blocks)
    probs = write.match(encoding, write(encoding))
    assert probs.gather(-1, write.own_blocks(36).expand(3, -1, -1).unsqueeze(-1)).min() > 0.99


def test_images_match_their_own_blocks_in_a_memory_that_is_nearly_empty():
    layout = LAYOUTS[1]
    write, encoding = allocate(layout), contents(layout, 3, 2)
    probs = write.match(encoding, write(encoding))
    assert torch.stack([probs[:, 0, 0, 0], probs[:, 1, 0, 1]]).min() > 0.99


def test_noisy_cues_match_the_blocks_of_the_images_that_they_come_from():
    layout = LAYOUTS[1]
    write, encoding = allocate(layout), contents(layout, 3, layout.blocks)
    noisy = encoding.latent_loc + 0.3 * torch.randn_like(encoding.latent_loc)
    probs = write.match(Encoding(encoding.features, noisy, encoding.latent_scale), write(encoding))
    assert probs[:, :, 0].diagonal(dim1=1, dim2=2).min() > 0.99


@pytest.mark.parametrize("least", [0.1, 5.0])  # what the cues say themselves, and more than that
def test_the_match_is_the_posterior_of_the_block_under_normal_noise(least):
    layout = MemoryLayout(1, 2, 6, 2, 2, reads=2)  # 3 blocks of 4 scalars
    write = allocate(layout, match_scale=least)
    memory, cues = torch.randn(2, 1, *layout.shape, dtype=torch.float64), contents(layout, 2, 4)
    probs = write.match(cues, memory)
    for episode in range(2):
        blocks = [memory[episode, 0, :, :, 2 * n : 2 * n + 2].flatten() for n in range(3)]
        for image in range(4):
            parts = cues.latent_loc[episode, image].view(2, 4)
            away = torch.stack([min((part - block).square().mean() for block in blocks) for part in parts]).mean()
            noise = dist.Normal(0.0, max(away.sqrt(), least * memory[episode].square().mean().sqrt()))
            for cue, r in zip(parts, range(2), strict=True):
                joint = torch.stack([noise.log_prob(cue - block).sum() for block in blocks])
                torch.testing.assert_close(probs[episode, image, r], (joint - joint.logsumexp(0)).exp())


@both_reads
def test_permuted_cues_find_permuted_blocks(layout):
    write = allocate(layout, match_scale=3.0)  # so wide that all probabilities matter
    memory, cues = write(contents(layout, 2, 9)), contents(layout, 2, 5)
    probs = write.match(cues, memory)
    torch.testing.assert_close(write.match(permuted(cues, PERMUTATION), memory), probs[:, PERMUTATION])
    order = torch.randperm(layout.blocks)
    moved = join_blocks(cut_blocks(memory[:, 0], layout)[:, order], layout).unsqueeze(1)
    torch.testing.assert_close(write.match(cues, moved), probs[..., order])
    torch.testing.assert_close(write.match(cues, 5 * memory[:, :1]).sum(-1), torch.ones(2, 5, layout.reads).double())


def test_a_match_in_an_empty_memory_is_still_a_distribution():
    layout = LAYOUTS[1]
    probs = allocate(layout).match(contents(layout, 2, 3), torch.zeros(2, 1, *layout.shape, dtype=torch.float64))
    torch.testing.assert_close(probs, torch.full_like(probs, 1 / layout.blocks))


@both_reads
def test_posteriors_have_the_shapes_of_their_sites(layout):
    for write in (allocate(layout), feed_forward(layout)):
        encoding = write.encode(features(3, 5))
        memory = write(encoding)
        assert memory.shape == (3, 1, *layout.shape)
        assert encoding.latent_loc.shape == encoding.latent_scale.shape == (3, 5, write.latent_size)
        assert (encoding.latent_scale > SMALLEST).all()
        for posterior in (write.key_posterior(encoding), write.key_posterior(encoding, memory)):
            assert (posterior.batch_shape, posterior.event_shape) == ((3, 5), (layout.reads, 3))


def test_only_a_matched_key_may_come_from_the_prior():
    write = allocate(LAYOUTS[1], match_prior_prob=0.25)
    encoding = write.encode(features(2, 5))
    own, cue = write.key_posterior(encoding), write.key_posterior(encoding, write(encoding))
    assert isinstance(own, BlockKey) and isinstance(cue, BlockKey)
    assert (own.prior_prob, cue.prior_prob) == (0.0, 0.25)
    assert own.has_rsample and not cue.has_rsample  # the encoder chooses the block of a cue


@pytest.mark.parametrize(("height", "width"), [(13, 24), (12, 22)])
def test_a_memory_that_blocks_do_not_tile_is_refused(height, width):
    with pytest.raises(InputError, match=f"memory {height}x{width} .* whole multiples of the block 4x4"):
        AllocateWrite(MemoryLayout(4, height, width, 4, 4), FEATURES, SMALLEST)


@both_reads
def test_feed_forward_permuting_images_permutes_keys_and_latents_and_keeps_the_memory(layout):
    write, given = feed_forward(layout), features(3, 5)
    one, other = write.encode(given), write.encode(given[:, PERMUTATION])
    torch.testing.assert_close(write(other), write(one))
    torch.testing.assert_close(other.latent_loc, one.latent_loc[:, PERMUTATION])
    torch.testing.assert_close(other.latent_scale, one.latent_scale[:, PERMUTATION])
    torch.testing.assert_close(write.key_posterior(other).mean, write.key_posterior(one).mean[:, PERMUTATION])
    torch.testing.assert_close(write.key_posterior(other).stddev, write.key_posterior(one).stddev[:, PERMUTATION])


@both_reads
def test_a_memory_hears_every_image_of_its_own_episode_and_no_other(layout):
    for write in (allocate(layout), feed_forward(layout)):
        given = features(3, 5).requires_grad_()
        memory = write(write.encode(given))[1]
        (gradient,) = torch.autograd.grad((memory * torch.randn_like(memory)).sum(), given)
        assert (gradient.abs().amax(-1) > 1e-6).tolist() == [[False] * 5, [True] * 5, [False] * 5]


@both_reads
def test_permuting_episodes_permutes_their_memories(layout):
    order = torch.tensor([2, 0, 1])
    for write in (allocate(layout), feed_forward(layout)):
        given = features(3, 5)
        torch.testing.assert_close(write(write.encode(given[order])), write(write.encode(given))[order])


def test_feed_forward_a_cue_is_found_by_its_looks_alone():
    write = feed_forward(LAYOUTS[2])
    encoding, memory = write.encode(features(2, 5)), write(write.encode(features(2, 5)))
    assert torch.equal(write.key_posterior(encoding).mean, write.key_posterior(encoding, memory).mean)


@both_reads
@pytest.mark.parametrize("make", [allocate, feed_forward])
def test_every_parameter_receives_a_gradient(make, layout):
    write = make(layout)
    encoding = write.encode(features(2, 5))
    key = write.key_posterior(encoding).rsample()
    outputs = (read(write(encoding), key, write.addressing), encoding.latent_loc, encoding.latent_scale, key)
    sum((output * torch.randn_like(output)).sum() for output in outputs).backward()
    for name, parameter in write.named_parameters():
        assert parameter.grad.abs().max() > 1e-6, name


@pytest.mark.parametrize("kind", [AllocateWrite, FeedForwardWrite])
def test_bfloat16_stops_at_the_networks_of_a_write(kind):
    sizes = (FEATURES, SMALLEST) if kind is AllocateWrite else (FEATURES, 7, SMALLEST, keys(LAYOUTS[1]))
    write, given = kind(LAYOUTS[1], *sizes, dtype=torch.bfloat16), features(2, 5).float()
    encoding = write.encode(given)
    results = (write(encoding), encoding.latent_loc, encoding.latent_scale, write.key_posterior(encoding).sample())
    assert {result.dtype for result in results} == {torch.float32}
    exact = write.to(torch.float64).encode(given.double())  # autocast leaves float64 alone
    assert (encoding.latent_loc - exact.latent_loc).abs().max() < 0.05
