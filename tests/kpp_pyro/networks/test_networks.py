"""The networks of all families: what they depend on, in which precision, and that they can learn."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from kpp_pyro.errors import InputError
from kpp_pyro.memory.blocks import MemoryLayout
from kpp_pyro.networks.conv import ConvDecoder, ConvEncoder, ResidualConv
from kpp_pyro.networks.heads import IdentityReading, InPrecision, LocScaleHead, constant_weights, positive
from kpp_pyro.networks.mlp import MlpDecoder, MlpEncoder, ResidualMlp
from kpp_pyro.networks.patches import PatchDecoder, PatchEncoder
from kpp_pyro.networks.shapes import require_image_shape

IMAGE_SHAPE, LATENT_SIZE, WIDTH = (1, 16, 20), 6, 16
LAYOUT = MemoryLayout(2, 8, 8, 2, 2, reads=2)
ENCODERS, DECODERS = (MlpEncoder, ConvEncoder, PatchEncoder), (MlpDecoder, ConvDecoder, PatchDecoder)
every_encoder = pytest.mark.parametrize("make_encoder", ENCODERS)
every_decoder = pytest.mark.parametrize("make_decoder", DECODERS)
EVERY_NETWORK = {
    "MlpEncoder": (lambda: MlpEncoder(IMAGE_SHAPE, WIDTH, 2, 0.125), (2, 5, *IMAGE_SHAPE)),
    "ConvEncoder": (lambda: ConvEncoder(IMAGE_SHAPE, WIDTH, 1, 0.125), (2, 5, *IMAGE_SHAPE)),
    "PatchEncoder": (lambda: PatchEncoder(IMAGE_SHAPE, WIDTH, 2, 0.125), (2, 5, *IMAGE_SHAPE)),
    "MlpDecoder": (lambda: MlpDecoder(LATENT_SIZE, IMAGE_SHAPE, WIDTH, 2), (2, 5, LATENT_SIZE)),
    "ConvDecoder": (lambda: ConvDecoder(LATENT_SIZE, IMAGE_SHAPE, WIDTH, 1), (2, 5, LATENT_SIZE)),
    "PatchDecoder": (lambda: PatchDecoder(LATENT_SIZE, IMAGE_SHAPE, WIDTH, 2), (2, 5, LATENT_SIZE)),
    "IdentityReading": (lambda: IdentityReading(LAYOUT, 0.1), (2, 5, 2, *LAYOUT.block_shape)),
    "LocScaleHead": (lambda: LocScaleHead(WIDTH, LATENT_SIZE, 0.1), (2, 5, WIDTH)),
}
every_network = pytest.mark.parametrize(("make", "input_shape"), EVERY_NETWORK.values(), ids=EVERY_NETWORK.keys())


def episodes(*batch):
    return torch.rand(*batch, *IMAGE_SHAPE, dtype=torch.float64)


def outputs_of(network, inputs):
    outputs = network(inputs)
    return (outputs,) if isinstance(outputs, torch.Tensor) else outputs


@every_encoder
def test_without_a_shift_permuting_images_or_episodes_permutes_their_encodings(make_encoder):
    encoder, episode = make_encoder(IMAGE_SHAPE, WIDTH, 2, 0.0).double(), episodes(3, 5)
    encoded = encoder(episode)
    assert encoded.shape == (3, 5, encoder.encoding_size)
    images, others = torch.tensor([3, 0, 4, 1, 2]), torch.tensor([2, 0, 1])
    torch.testing.assert_close(encoder(episode[:, images]), encoded[:, images])
    torch.testing.assert_close(encoder(episode[others]), encoded[others])
    torch.testing.assert_close(encoder(episode[1:2, 3:4]), encoded[1:2, 3:4])  # not even their number matters


@every_encoder
def test_with_a_shift_permuting_episodes_still_permutes_their_encodings_but_images_see_their_order(make_encoder):
    encoder, episode = make_encoder(IMAGE_SHAPE, WIDTH, 1, 0.125).double(), episodes(3, 5)
    encoded, others, images = encoder(episode), torch.tensor([2, 0, 1]), torch.tensor([3, 0, 4, 1, 2])
    torch.testing.assert_close(encoder(episode[others]), encoded[others])
    assert (encoder(episode[:, images]) - encoded[:, images]).abs().max() > 1e-3


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize(("make_encoder", "stages"), [(MlpEncoder, 1), (ConvEncoder, 2), (PatchEncoder, 1)])
def test_an_encoding_depends_on_the_neighbours_that_the_shifts_reach_and_no_others(make_encoder, stages, depth):
    encoder = make_encoder((1, 16, 16), WIDTH, depth, 0.125).double()
    episode = torch.rand(2, 11, 1, 16, 16, dtype=torch.float64, requires_grad=True)
    probe = torch.randn(encoder.encoding_size, dtype=torch.float64)  # the sum alone is fixed by the last LayerNorm
    reach = depth * stages
    for image in (0, 5):
        (gradient,) = torch.autograd.grad((encoder(episode)[1, image] * probe).sum(), episode)
        depends = gradient.flatten(2).abs().sum(-1) > 0
        expected = (torch.arange(11) - image).abs() <= reach
        assert depends[1].tolist() == expected.tolist()
        assert not depends[0].any()


@every_decoder
@pytest.mark.parametrize("batch", [(7,), (2, 3), (4, 2, 3), (1, 1, 1, 2)])
def test_a_decoder_acts_on_each_latent_alone(make_decoder, batch):
    decoder = make_decoder(LATENT_SIZE, IMAGE_SHAPE, WIDTH, 1).double()
    latent = torch.randn(*batch, LATENT_SIZE, dtype=torch.float64)
    logits = decoder(latent)
    assert logits.shape == (*batch, *IMAGE_SHAPE)
    alone = torch.stack([decoder(one[None, None])[0, 0] for one in latent.flatten(0, -2)])
    torch.testing.assert_close(logits.flatten(0, -4), alone)


@pytest.mark.parametrize("batch", [(7,), (2, 3), (4, 2, 3)])
def test_a_reading_acts_on_each_read_alone(batch):
    block = torch.randn(*batch, 2, *LAYOUT.block_shape, dtype=torch.float64)
    reading = IdentityReading(LAYOUT, 0.1).double()
    for parameter, alone in zip(
        reading(block), zip(*(reading(one) for one in block.flatten(0, -5)), strict=True), strict=True
    ):
        assert parameter.shape == (*batch, reading.latent_size)
        torch.testing.assert_close(parameter.flatten(0, -2), torch.stack(alone))


def test_the_identity_reading_is_located_at_the_read():
    block = torch.randn(2, 3, 2, *LAYOUT.block_shape)
    loc, scale = IdentityReading(LAYOUT, 0.1)(block)
    assert torch.equal(loc.reshape(block.shape), block)
    torch.testing.assert_close(scale, torch.full_like(loc, 0.1 + 0.126928))  # softplus(-2)


@pytest.mark.parametrize("family", [ResidualMlp(16), ResidualConv(16)], ids=["mlp", "conv"])
def test_a_residual_block_that_projects_to_zero_is_the_identity(family):
    nn.init.zeros_(family.project.weight)
    nn.init.zeros_(family.project.bias)
    features = torch.randn(2, 3, 16) if isinstance(family, ResidualMlp) else torch.randn(2, 3, 16, 4, 5)
    assert torch.equal(family(features), features)


@every_network
def test_every_parameter_receives_a_gradient(make, input_shape):
    network = make().double()
    outputs = outputs_of(network, torch.randn(input_shape, dtype=torch.float64))
    sum((output * torch.randn_like(output)).sum() for output in outputs).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad.abs().max() > 1e-6, name


@pytest.mark.parametrize("smallest", [0.0, 0.05, 1.0])
def test_a_scale_is_never_below_the_smallest(smallest):
    raw = torch.cat([torch.linspace(-1e4, 1e4, 101), torch.linspace(-8, 8, 101)])
    scale = positive(raw, smallest)
    assert (scale >= smallest).all() and scale.isfinite().all()
    assert (positive(torch.linspace(-8, 8, 101), smallest).diff() > 0).all()


def test_the_head_splits_its_outputs_into_locations_and_scales():
    head, features = LocScaleHead(WIDTH, LATENT_SIZE, 0.1).double(), torch.randn(4, WIDTH, dtype=torch.float64)
    loc, scale = head(features)
    raw = features @ head.linear.weight.T + head.linear.bias
    torch.testing.assert_close(loc, raw[:, :LATENT_SIZE])
    torch.testing.assert_close(scale, 0.1 + (1 + (raw[:, LATENT_SIZE:] - 2).exp()).log())


@every_network
def test_bfloat16_stops_at_the_network(make, input_shape):
    network, inputs = make(), torch.randn(input_shape)
    exact = outputs_of(InPrecision(network), inputs)
    rounded = outputs_of(InPrecision(network, torch.bfloat16), inputs)
    for one, other in zip(exact, rounded, strict=True):
        assert one.dtype == other.dtype == torch.float32
        assert (one - other).abs().max() < 4 * 2**-8 * one.abs().max().clamp(min=1)
    if not isinstance(network, IdentityReading):
        assert not torch.equal(exact[0], rounded[0])  # it did run in bfloat16


@every_network
def test_float64_stays_float64(make, input_shape):
    network, inputs = make(), torch.randn(input_shape)
    precise = InPrecision(copy.deepcopy(network).double())
    for one, other in zip(outputs_of(network, inputs), outputs_of(precise, inputs.double()), strict=True):
        assert other.dtype == torch.float64
        torch.testing.assert_close(one.double(), other, atol=1e-4, rtol=1e-4)


def test_gradients_through_bfloat16_reach_float32_parameters():
    network, features = LocScaleHead(WIDTH, LATENT_SIZE, 0.1), torch.randn(3, WIDTH)
    sum(output.sum() for output in InPrecision(network, torch.bfloat16)(features)).backward()
    half = network.linear.weight.grad.clone()
    network.zero_grad()
    sum(output.sum() for output in network(features)).backward()
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, network.linear.weight.grad, atol=0.05, rtol=0.05)


@pytest.mark.parametrize("side", [16, 28, 64])
def test_image_sides_from_16_to_64_are_accepted_and_come_back_from_the_decoders(side):
    for shape in ((1, side, side), (1, 16, side), (3, side, 16)):
        require_image_shape(shape)
        for make_encoder, make_decoder in zip(ENCODERS, DECODERS, strict=True):
            encoding = make_encoder(shape, 8, 1, 0.0)(torch.rand(1, 2, *shape))
            assert make_decoder(encoding.shape[-1], shape, 8, 1)(encoding).shape == (1, 2, *shape)


@pytest.mark.parametrize("side", [0, 12, 14, 15, 30, 65, 68])
def test_other_image_sides_are_refused(side):
    for height, width in ((side, side), (16, side), (side, 64)):
        with pytest.raises(InputError, match=f"multiples of 4 from 16 to 64 pixels, found {height}x{width}"):
            require_image_shape((1, height, width))


def test_constant_weights_are_cast_once_and_only_until_the_context_ends():
    network, features = InPrecision(nn.Linear(4, 3), torch.bfloat16), torch.randn(2, 4)
    before = network(features)
    with torch.no_grad(), constant_weights(features.device):
        assert torch.equal(network(features), before)
        network.network.weight.mul_(2)
        assert torch.equal(network(features), before)  # the cast of the first pass
        assert (features @ features.mT).dtype == torch.float32  # what is outside a network keeps its precision
    assert not torch.equal(network(features), before)
