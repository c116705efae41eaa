"""Writes: what they put into a memory can be read back, and does not depend on names."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pyro.distributions as dist
import pytest
import torch

from kpp_pyro.distributions.block_key import BlockKey
from kpp_pyro.errors import InputError
from kpp_pyro.memory.blocks import SCALE, MemoryLayout, X, Y, cut_blocks, join_blocks, read
from kpp_pyro.posteriors import POSTERIORS
from kpp_pyro.posteriors.families import MeanFieldPosterior
from kpp_pyro.writes.assignment import sinkhorn
from kpp_pyro.writes.blocks import AllocateWrite, BlockWrite, _standard_squares
from kpp_pyro.writes.feed_forward import FeedForwardWrite
from kpp_pyro.writes.interface import Encoding

FEATURES, SMALLEST = 24, 0.05
PERMUTATION = torch.tensor([2, 4, 0, 3, 1])
LAYOUTS = {1: MemoryLayout(4, 12, 24, 4, 4), 2: MemoryLayout(4, 12, 24, 4, 4, reads=2)}  # 18 blocks of 64 scalars
both_reads = pytest.mark.parametrize("layout", LAYOUTS.values(), ids=["R=1", "R=2"])


def allocate(layout, **options):
    return AllocateWrite(layout, FEATURES, SMALLEST, **options).double()


def feed_forward(layout):
    return FeedForwardWrite(layout, FEATURES, SMALLEST, keys(layout)).double()


def keys(layout):
    return MeanFieldPosterior(FEATURES, torch.Size([layout.reads, 3]))


def features(episodes, images):
    return torch.randn(episodes, images, FEATURES, dtype=torch.float64)


def blocks_of(memory, layout):
    """What the blocks of memories (B, 1, C_m, H_m, W_m) hold, (B, N, S)."""
    return cut_blocks(memory[:, 0], layout).flatten(2)


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
@pytest.mark.parametrize("make", [allocate, feed_forward])
@pytest.mark.parametrize("fill", ["one", "some", "all"])
def test_a_read_at_an_images_own_key_returns_exactly_what_was_written(layout, fill, make):
    most = layout.blocks // layout.reads
    write = make(layout)
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


def random_allocate(layout):
    write = allocate(layout)
    write.is_random = True
    return write


def uncertain(encoding, least=0.2, most=0.6):
    """The encoding, whose contents have other standard deviations in each scalar."""
    return replace(encoding, latent_scale=least + (most - least) * torch.rand_like(encoding.latent_loc))


def test_squares_in_standard_deviations_are_those_of_a_loop():
    cue, scale = torch.randn(2, 3, 2, 4, dtype=torch.float64), 0.1 + torch.rand(2, 3, 2, 4, dtype=torch.float64)
    blocks = torch.randn(6, 2, 5, 4, dtype=torch.float64)  # of 6 particles: the cues are the same for all
    found = _standard_squares(cue, scale, blocks)
    assert found.shape == (6, 2, 3, 2, 5)
    for k, b, t, r, n in product(*map(range, found.shape)):
        expected = (((cue[b, t, r] - blocks[k, b, n]) / scale[b, t, r]) ** 2).sum()
        torch.testing.assert_close(found[k, b, t, r, n], expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("away", [0.0, 3.0])  # as far as draws of the memory are from contents, and farther
def test_the_match_in_a_random_memory_is_the_posterior_of_the_block_under_its_noise(away):
    layout = MemoryLayout(1, 2, 8, 2, 2)  # 4 blocks of 4 scalars, 3 of them written
    write, written = random_allocate(layout), uncertain(contents(layout, 2, 3), least=0.5, most=1.5)
    memory = write(replace(written, latent_loc=written.latent_loc + written.latent_scale * torch.randn(2, 3, 4)))
    cues = replace(written, latent_loc=written.latent_loc + away)
    probs, blocks = write.match(cues, memory), blocks_of(memory, layout)
    factors = []
    for episode, image in product(range(2), range(3)):
        cue, scale = cues.latent_loc[episode, image], cues.latent_scale[episode, image]
        nearest = min(((cue - blocks[episode, n]) / scale).square().mean() for n in range(3))
        factors.append(max(nearest.sqrt().item(), 1.0))
        noise = dist.Normal(cue, scale * factors[-1])
        joint = torch.stack([noise.log_prob(blocks[episode, n]).sum() for n in range(3)])
        expected = torch.cat([(joint - joint.logsumexp(0)).exp(), joint.new_zeros(1)])  # none for the empty block
        torch.testing.assert_close(probs[episode, image, 0], expected)
    assert (max(factors) > 2) == (away > 0)


@pytest.mark.parametrize("images", [3, 18])
def test_written_images_find_the_draws_of_their_own_blocks(images):
    layout = LAYOUTS[1]
    write, encoding = random_allocate(layout), uncertain(contents(layout, 3, images))
    drawn = encoding.latent_loc + encoding.latent_scale * torch.randn_like(encoding.latent_loc)
    probs = write.match(encoding, write(replace(encoding, latent_loc=drawn)))[:, :, 0]
    assert probs.diagonal(dim1=1, dim2=2).min() > 0.99
    assert not probs[..., images:].any()


def test_the_units_of_each_scalar_do_not_matter_to_the_match_in_a_random_memory():
    layout = LAYOUTS[1]
    write, encoding = random_allocate(layout), uncertain(contents(layout, 2, 4), least=3.0, most=9.0)
    units = torch.rand(layout.read_scalars, dtype=torch.float64).exp()
    other = replace(encoding, latent_loc=units * encoding.latent_loc, latent_scale=units * encoding.latent_scale)
    probs = write.match(encoding, write(encoding))
    assert 0.1 < probs[:, :, 0].diagonal(dim1=1, dim2=2).mean() < 0.9
    torch.testing.assert_close(write.match(other, write(other)), probs)


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


@pytest.mark.parametrize("make", [lambda layout: allocate(layout), lambda layout: random_allocate(layout)])
def test_a_match_in_an_empty_memory_is_still_a_distribution(make):
    layout = LAYOUTS[1]
    probs = make(layout).match(contents(layout, 2, 3), torch.zeros(2, 1, *layout.shape, dtype=torch.float64))
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
    with pytest.raises(InputError, match=f"memory {height}x{width} .* whole multiples of the block 4x4"):
        feed_forward(MemoryLayout(4, height, width, 4, 4))


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


@pytest.mark.parametrize(
    ("kind", "sizes"),
    [
        (AllocateWrite, (FEATURES, SMALLEST)),
        (FeedForwardWrite, (FEATURES, SMALLEST, keys(LAYOUTS[1]))),
    ],
)
def test_bfloat16_stops_at_the_networks_of_a_write(kind, sizes):
    write, given = kind(LAYOUTS[1], *sizes, dtype=torch.bfloat16), features(2, 5).float()
    encoding = write.encode(given)
    results = (write(encoding), encoding.latent_loc, encoding.latent_scale, write.key_posterior(encoding).sample())
    assert {result.dtype for result in results} == {torch.float32}
    exact = write.to(torch.float64).encode(given.double())  # autocast leaves float64 alone
    assert (encoding.latent_loc - exact.latent_loc).abs().max() < 0.05


# The write that is shared by all that know their blocks


@both_reads
@pytest.mark.parametrize("images", [5, 18, 40])
def test_blocks_that_are_given_out_in_order_are_written_alike_in_general_and_by_padding(layout, images):
    write, encoding = allocate(layout), contents(layout, 2, images)
    torch.testing.assert_close(BlockWrite.forward(write, encoding), write(encoding), atol=1e-12, rtol=0)
    of_contents = [
        torch.autograd.functional.jvp(lambda loc, f=f: f(replaced(encoding, loc)), *2 * [encoding.latent_loc])
        for f in (write, lambda e: BlockWrite.forward(write, e))
    ]
    torch.testing.assert_close(*of_contents)


def replaced(encoding, loc):
    return Encoding(encoding.features, loc, encoding.latent_scale)


# feed_forward: images claim blocks


@both_reads
@pytest.mark.parametrize("fill", ["one", "some", "all"])
def test_with_room_for_all_every_read_claims_a_block_of_its_own_and_nothing_else_is_written(layout, fill):
    most = layout.blocks // layout.reads
    write, encoding = feed_forward(layout), contents(layout, 3, {"one": 1, "some": most - 2, "all": most}[fill])
    held, blocks = blocks_of(write(encoding), layout), write.blocks_of(encoding)
    assert blocks.shape == (3, encoding.images, layout.reads)
    parts = encoding.latent_loc.unflatten(-1, (layout.reads, -1))
    for b in range(3):
        own = blocks[b].flatten().tolist()
        assert len(set(own)) == len(own)
        torch.testing.assert_close(held[b, own], parts[b].flatten(0, 1), atol=1e-12, rtol=0)
        assert not held[b, [n for n in range(layout.blocks) if n not in own]].any()


@both_reads
@pytest.mark.parametrize("images", [19, 31, 40])
def test_more_reads_than_blocks_fill_no_block_with_more_than_their_share_and_it_holds_their_mean(layout, images):
    write, encoding = feed_forward(layout), contents(layout, 3, images)
    held, blocks = blocks_of(write(encoding), layout), write.blocks_of(encoding).flatten(1)
    parts = encoding.latent_loc.unflatten(-1, (layout.reads, -1)).flatten(1, 2)  # (B, T * R, S)
    for b in range(3):
        for n in range(layout.blocks):
            mine = parts[b, blocks[b] == n]
            assert len(mine) <= -(-images * layout.reads // layout.blocks)
            expected = mine.mean(0) if len(mine) else torch.zeros_like(held[b, n])
            torch.testing.assert_close(held[b, n], expected, atol=1e-12, rtol=0)


@both_reads
@pytest.mark.parametrize("images", [5, 40])
def test_feed_forward_permuting_images_permutes_keys_and_latents_and_keeps_the_memory(layout, images):
    write, given, order = feed_forward(layout), features(3, images), torch.randperm(images)
    one, other = write.encode(given), write.encode(given[:, order])
    torch.testing.assert_close(write(other), write(one), atol=1e-12, rtol=0)
    torch.testing.assert_close(other.latent_loc, one.latent_loc[:, order])
    assert torch.equal(write.blocks_of(other), write.blocks_of(one)[:, order])
    torch.testing.assert_close(write.key_posterior(other).mean, write.key_posterior(one).mean[:, order])
    torch.testing.assert_close(write.key_posterior(other).stddev, write.key_posterior(one).stddev[:, order])


def test_claims_are_of_what_images_look_like_and_not_of_their_contents():
    layout = LAYOUTS[2]
    write, encoding = feed_forward(layout), contents(layout, 3, 9)
    others = replaced(encoding, torch.randn_like(encoding.latent_loc))
    assert torch.equal(write.blocks_of(encoding), write.blocks_of(others))
    looks = Encoding(features(3, 9), encoding.latent_loc, encoding.latent_scale)
    assert not torch.equal(write.blocks_of(encoding), write.blocks_of(looks))


def test_an_image_gets_the_block_that_it_claims_most():
    layout = LAYOUTS[1]
    write, wanted = feed_forward(layout), torch.stack([torch.randperm(layout.blocks)[:FEATURES] for _ in range(3)])
    with torch.no_grad():
        write.to_claim.network.weight.copy_(torch.eye(layout.blocks, FEATURES))
    looks = torch.eye(FEATURES, dtype=torch.float64)[wanted]  # image t looks like block `wanted[t]`
    assert torch.equal(write.blocks_of(write.encode(looks))[..., 0], wanted)


@both_reads
@pytest.mark.parametrize("own", [True, False], ids=["own", "others"])
def test_a_cues_key_is_centred_in_the_block_that_holds_its_content_whoever_wrote_it(layout, own):
    write, images = feed_forward(layout), layout.blocks // layout.reads
    written = contents(layout, 3, images)
    order = torch.randperm(images)
    memory, blocks = write(written), write.blocks_of(written)
    noisy = written.latent_loc + 0.2 * torch.randn_like(written.latent_loc)
    looks = written.features if own else features(3, images)  # which would be put elsewhere
    cue = permuted(Encoding(looks, noisy, written.latent_scale), order)
    key = write.key_posterior(cue, memory)
    torch.testing.assert_close(key.mean, write.centres[blocks[:, order]] + write.key_shift)
    found = read(memory, key.mode, write.addressing).flatten(-4)
    torch.testing.assert_close(found, written.latent_loc[:, order], atol=1e-12, rtol=0)


@pytest.mark.parametrize("family", POSTERIORS.values(), ids=POSTERIORS)
def test_keys_may_be_of_any_family_and_their_draws_read_their_own_blocks(family):
    layout = LAYOUTS[2]
    write = FeedForwardWrite(layout, FEATURES, SMALLEST, family(FEATURES, torch.Size([2, 3]))).double()
    with torch.no_grad():
        write.to_key_scale.network.bias.fill_(-20.0)  # as narrow as they become
    encoding = write.encode(features(2, 9))
    key = write.key_posterior(encoding)
    assert key.has_rsample and (key.batch_shape, key.event_shape) == ((2, 9), (2, 3))
    found = read(write(encoding), key.sample((50,)), write.addressing).flatten(-4)
    torch.testing.assert_close(found, encoding.latent_loc.expand_as(found), atol=1e-12, rtol=0)


@pytest.mark.parametrize(("height", "width"), [(12, 24), (4, 32), (20, 4)])  # blocks side by side, and one column
@pytest.mark.parametrize(("raw", "deviations"), [(-40.0, 25), (0.0, 1 / 0.12), (40.0, 5)])
def test_keys_are_as_many_deviations_from_reading_another_block_wherever_their_own_one_is(
    height, width, raw, deviations
):
    layout = MemoryLayout(4, height, width, 4, 4)
    write, encoding = feed_forward(layout), contents(layout, 2, layout.blocks)
    with torch.no_grad():
        write.to_key_scale.network.weight.zero_()
        write.to_key_scale.network.bias.fill_(raw)
    key = write.key_posterior(encoding)
    own = write.addressing.boxes(key.mode)
    for coordinate, count in ((X, layout.columns), (Y, layout.rows)):
        way = deviations * key.stddev * torch.nn.functional.one_hot(torch.tensor(coordinate), 3)

        def changed(share, way=way):
            """Whose read is another one, so far to either side."""
            sides = [write.addressing.boxes(key.mode + sign * share * way) for sign in (-1, 1)]
            return torch.stack([(boxes != own).any(-1) for boxes in sides])

        if count == 1 and raw > 0:
            torch.testing.assert_close(key.stddev[..., coordinate], torch.ones_like(key.stddev[..., coordinate]))
        assert not changed(0.999).any()
        assert changed(1.001).any(0).all() == (count > 1)  # to the nearer side, if there is one


def test_a_few_draws_in_a_million_read_another_block_where_keys_are_widest():
    layout = MemoryLayout(2, 8, 16, 2, 2)
    write = feed_forward(layout)
    with torch.no_grad():
        write.to_key_scale.network.bias.fill_(40.0)
        write.to_key_scale.network.weight.zero_()
        write.key_shift.zero_()  # where training takes it
    key = write.key_posterior(write.encode(features(1, layout.blocks)))
    low, high = (torch.full_like(key.mean, side) for side in (-torch.inf, torch.inf))
    edge = write.addressing.edge
    for coordinate, count in ((X, layout.columns), (Y, layout.rows)):
        block = (torch.special.ndtr(key.mode[..., coordinate]) * count).floor()
        for bound, side, border in ((low, edge / 2, 0), (high, 1 - edge / 2, count - 1)):
            at = torch.special.ndtri((block + side) / count)
            bound[..., coordinate] = torch.where(block == border, bound[..., coordinate], at)
    high[..., SCALE] = write.addressing.scale_at(0.0)
    own = (key.base_dist.cdf(high) - key.base_dist.cdf(low)).prod(-1)
    assert (own > 1 - 3e-6).all()
    assert own.min() < 1 - 1e-6


def test_keys_start_narrower_than_their_blocks_and_away_from_broad_reads():
    layout = MemoryLayout(2, 16, 32, 2, 2)  # 128 blocks
    write = feed_forward(layout)
    encoding = write.encode(features(2, 128))
    key = write.key_posterior(encoding)
    first_broad = write.addressing.scale_at(0.0)
    scale = key.sample((200,))[..., SCALE]
    assert (key.mean[..., SCALE] == -1).all() and first_broad > 2
    assert (scale < first_broad).all()
    boxes = write.addressing.boxes(key.sample((200,)))
    own = write.addressing.boxes(key.mode).expand_as(boxes)
    assert (boxes == own).all()


@both_reads
@pytest.mark.parametrize("images", [3, 5])
def test_the_memory_has_the_gradient_of_the_balanced_claims_straight_through_their_rounding(layout, images):
    layout = MemoryLayout(2, 4, 4, 2, 2, reads=layout.reads)  # 4 blocks
    write, encoding = feed_forward(layout), contents(layout, 2, images)
    weight, direction = write.to_claim.network.weight, torch.randn(2, 1, *layout.shape, dtype=torch.float64)
    counts = (write.blocks_of(encoding).flatten(1).unsqueeze(-1) == torch.arange(4)).sum(1).clamp(min=1)  # (B, N)
    parts = write.contents(encoding).flatten(3).flatten(1, 2)

    def soft(weight):
        """What balanced claims would write, divided as whole ones are."""
        claims = (encoding.features @ weight.mT).unflatten(-1, (layout.reads, -1)).flatten(1, 2)
        held = sinkhorn(4 * claims, 8)[0].mT @ parts / counts.unsqueeze(-1)
        return (join_blocks(held.unflatten(-1, layout.block_shape), layout).unsqueeze(1) * direction).sum()

    (gradient,) = torch.autograd.grad((write(encoding) * direction).sum(), weight)
    with torch.no_grad():
        for way in (torch.randn_like(weight), torch.randn_like(weight), torch.ones_like(weight)):
            difference = (soft(weight + 1e-5 * way) - soft(weight - 1e-5 * way)) / 2e-5
            torch.testing.assert_close((gradient * way).sum(), difference, rtol=1e-6, atol=1e-8)
    assert gradient.abs().max() > 1e-3


def test_a_lone_images_balanced_claims_are_of_all_blocks_alike():
    layout = MemoryLayout(2, 4, 4, 2, 2)
    shares = feed_forward(layout)._claimed(contents(layout, 3, 1)).shares
    torch.testing.assert_close(shares, torch.full_like(shares, 1 / 4), atol=1e-3, rtol=0)


@both_reads
def test_claims_leave_the_encoder_to_what_contents_and_keys_need(layout):
    write, given = feed_forward(layout), features(2, 5).requires_grad_()
    loc = torch.randn(2, 5, layout.read_scalars, dtype=torch.float64)
    memory = write(Encoding(given, loc, torch.ones_like(loc)))
    assert memory.requires_grad  # by the claims
    (gradient,) = torch.autograd.grad((memory * torch.randn_like(memory)).sum(), given, allow_unused=True)
    assert gradient is None
    (gradient,) = torch.autograd.grad(write.key_posterior(write.encode(given)).stddev.sum(), given)
    assert gradient.abs().max() > 1e-6  # key scales are of the encoder too


def test_contents_have_the_gradient_of_the_means_that_blocks_hold():
    layout = LAYOUTS[1]
    write, known = feed_forward(layout), contents(layout, 2, 40)
    loc = known.latent_loc.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(write(replaced(known, loc)).sum(), loc)
    blocks = write.blocks_of(known).flatten(1)
    count = (blocks.unsqueeze(-1) == blocks.unsqueeze(-2)).sum(-1)  # of those who share, (B, T)
    torch.testing.assert_close(gradient, (1 / count).unsqueeze(-1).expand_as(gradient).double())


def test_where_blocks_lie_is_no_state():
    write = feed_forward(LAYOUTS[1])
    state = write.state_dict()
    assert not any("centres" in name or "widths" in name for name in state)
    assert {name for name, _ in write.named_buffers()} == {"centres", "widths"}
    assert list(state) == [name for name, _ in write.named_parameters()]
    twin = feed_forward(LAYOUTS[1])
    twin.load_state_dict(state)
    encoding = write.encode(features(2, 5))
    torch.testing.assert_close(twin.key_posterior(encoding).mean, write.key_posterior(encoding).mean)
