"""The family of patches: what every number depends on, and what it keeps of an image."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from inference import Config, build
from kpp_pyro.networks.patches import PatchDecoder, PatchEncoder, ResidualMixing, frequencies, to_images, to_patches
from models.registry import MODELS
from tests.programs import SMALL

WIDTH = 16
SHAPES = [(1, 16, 16), (3, 16, 20), (3, 32, 32), (1, 28, 64)]
every_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)


def numbers(shape):
    """Of an encoding: 16 for each grey patch, 32 for each one in colour."""
    return shape[1] * shape[2] * min(shape[0], 2)


def without_layers(network):
    network.layers = nn.Identity()
    return network


@every_shape
@pytest.mark.parametrize("batch", [(), (2, 3)])
def test_patching_is_undone_by_unpatching(shape, batch):
    images = torch.rand(*batch, *shape)
    patches = to_patches(images)
    assert patches.shape == (*batch, shape[1] * shape[2] // 16, 16 * shape[0])
    assert torch.equal(to_images(patches, *shape[1:]), images)


def test_a_patch_holds_the_pixels_of_its_place_channel_by_channel():
    images = torch.rand(5, 3, 16, 20)
    patches = to_patches(images)
    for row, column in ((0, 0), (1, 3), (3, 4)):
        expected = images[:, :, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4].flatten(1)
        assert torch.equal(patches[:, 5 * row + column], expected)


@every_shape
def test_every_number_of_an_encoding_depends_on_every_pixel(shape):
    encoder = PatchEncoder(shape, WIDTH, 1, 0.0).double()
    episode = torch.rand(1, 1, *shape, dtype=torch.float64, requires_grad=True)
    encoding = encoder(episode)[0, 0]
    assert encoding.shape == (encoder.encoding_size,) == (numbers(shape),)
    for number in (0, 17, -1):
        (gradient,) = torch.autograd.grad(encoding[number], episode, retain_graph=True)
        assert (gradient != 0).all()


@pytest.mark.parametrize("latent_size", [3, 100, 320, 1100])
@pytest.mark.parametrize("shape", [*SHAPES, (9, 32, 32)], ids=str)
def test_every_latent_reaches_every_pixel(shape, latent_size):
    decoder = PatchDecoder(latent_size, shape, WIDTH, 1).double()
    latent = torch.randn(latent_size, dtype=torch.float64, requires_grad=True)
    output = decoder(latent)
    assert output.shape == shape
    for channel, row, column in ((0, 0, 0), (-1, 5, 11), (0, -1, -1)):
        (gradient,) = torch.autograd.grad(output[channel, row, column], latent, retain_graph=True)
        assert (gradient != 0).all()


def test_a_shift_brings_every_pixel_of_the_neighbours():
    encoder = PatchEncoder((3, 16, 16), WIDTH, 1, 0.125).double()
    episode = torch.rand(1, 5, 3, 16, 16, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(encoder(episode)[0, 2, 7], episode)
    assert (gradient[0, 1:4] != 0).all() and (gradient[0, [0, 4]] == 0).all()


def test_permuting_channels_permutes_what_mixing_returns_since_the_norm_starts_as_the_same_for_all():
    mixing = ResidualMixing(10, WIDTH).double()
    tokens, order = torch.randn(2, 3, 10, WIDTH, dtype=torch.float64), torch.randperm(WIDTH)
    torch.testing.assert_close(mixing(tokens[..., order]), mixing(tokens)[..., order])


def test_mixing_that_projects_to_zero_is_the_identity():
    mixing = ResidualMixing(10, WIDTH)
    nn.init.zeros_(mixing.project.weight)
    nn.init.zeros_(mixing.project.bias)
    tokens = torch.randn(2, 3, 10, WIDTH)
    assert torch.equal(mixing(tokens), tokens)


def test_without_layers_encoder_and_decoder_are_affine_maps():
    encoder = without_layers(PatchEncoder((3, 16, 16), 48, 1, 0.0).double())
    decoder = without_layers(PatchDecoder(320, (3, 16, 16), 48, 1).double())
    for network, shape in ((encoder, (1, 1, 3, 16, 16)), (decoder, (320,))):
        one, other, share = torch.rand(shape).double(), torch.rand(shape).double(), 0.3
        mixed = share * network(one) + (1 - share) * network(other)
        torch.testing.assert_close(network(share * one + (1 - share) * other), mixed)


def test_the_affine_maps_lose_no_number_of_the_encoding_or_the_latent():
    encoder = without_layers(PatchEncoder((1, 16, 16), 48, 1, 0.0).double())
    decoder = without_layers(PatchDecoder(200, (1, 16, 16), 48, 1).double())
    for network, shape, rank in ((encoder, (1, 1, 1, 16, 16), 256), (decoder, (200,), 200)):
        inputs = torch.eye(rank, dtype=torch.float64).unflatten(1, shape)
        offset = network(torch.zeros(shape, dtype=torch.float64))
        jacobian = torch.stack([network(one) - offset for one in inputs]).flatten(1)
        assert torch.linalg.matrix_rank(jacobian) == rank


@pytest.mark.parametrize("latent_size, code", [(100, 16), (800, 16), (1600, 25)])
def test_the_number_of_parameters(latent_size, code):
    def count(network):
        return sum(parameter.numel() for parameter in network.parameters())

    width, tokens, norm, mixer = 64, 64, 2 * 64, 2 * (64 * 64 + 64)
    layers = 2 * (2 * norm + 2 * mixer)  # width and tokens are equal, and so are both mixers
    assert count(PatchEncoder((3, 32, 32), width, 2, 0.0)) == 48 * width + width + layers + width * 32 + 32
    to_codes = latent_size * tokens * code + tokens * code
    ends = code * width + width + width * 9 * 16 + 9 * 16
    assert count(PatchDecoder(latent_size, (9, 32, 32), width, 2)) == to_codes + ends + layers


@pytest.mark.parametrize("shape", [(1, 16, 16), (3, 32, 32)], ids=str)
@pytest.mark.parametrize("model", MODELS)
def test_every_model_encodes_and_decodes_with_it(model, shape):
    pair = build(Config.preset(model=model, networks="patches", **SMALL), shape)
    episode = torch.rand(1, 2, *shape).round()
    encoding, decoder = pair.guide.amortized_encoding(episode), pair.model.decoder
    assert encoding.features.shape == (1, 2, numbers(shape))
    latent = torch.randn(1, 2, decoder.network.to_codes[0].in_features)
    likelihood = pair.model.image_likelihood(latent)
    assert likelihood.event_shape == shape
    likelihood.log_prob(episode).sum().backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in decoder.parameters())


@pytest.mark.parametrize("channels", [1, 3])
def test_frequencies_are_orthogonal_and_ordered_and_begin_with_the_mean(channels):
    rows = frequencies(channels)
    norms = rows.norm(dim=1)
    torch.testing.assert_close(rows @ rows.T, norms.square().diag(), rtol=1e-5, atol=1e-4)
    assert (norms.diff() >= -1e-6).all()  # from the most energetic to the least
    assert torch.allclose(rows[0], rows[0, 0].expand_as(rows[0]))


def test_smooth_patches_have_next_to_nothing_beyond_the_first_frequencies():
    ramp = torch.linspace(-1, 1, 4)
    patch = (ramp[:, None] + 0.5 * ramp).expand(3, 4, 4).flatten()  # the same ramp in every channel
    rows = frequencies(3)
    energy = (rows @ patch / rows.norm(dim=1)).square()
    assert energy[:6].sum() / energy.sum() > 0.97


@pytest.mark.parametrize("write", ["allocate", "allocate_by_content"])
def test_contents_start_as_the_first_numbers_of_an_encoding(write):
    pair = build(Config.preset(write=write, networks="patches", **SMALL), (3, 32, 32))
    size, features = pair.guide.write.latent_size, pair.guide.encoder.network.encoding_size
    require_near_identity(pair.guide.write.to_content.network.linear.weight[:size], features)


@pytest.mark.parametrize("model", [model for model in MODELS if model != "kanerva_plus_plus"])
def test_the_latents_of_rivals_start_so_too(model):
    pair = build(Config.preset(model=model, networks="patches", **SMALL), (3, 32, 32))
    guide, features = pair.guide, pair.guide.encoder.network.encoding_size
    head = guide.to_content if MODELS[model].has_memory else guide.to_latent
    require_near_identity(head.network.linear.weight[: pair.model.decoder.network.to_codes[0].in_features], features)


def require_near_identity(weight, features):
    assert (weight - torch.eye(len(weight), features)).abs().max() <= 0.1 / features**0.5 + 1e-6
