"""Attention over an episode: exchangeable, and yet every image knows its company."""

from __future__ import annotations

import pytest
import torch

from kpp_pyro.errors import InputError
from kpp_pyro.networks.attention import AttentiveEncoder, ResidualAttention
from kpp_pyro.networks.conv import ConvEncoder
from kpp_pyro.networks.heads import InPrecision
from kpp_pyro.networks.mlp import MlpEncoder

IMAGE_SHAPE, WIDTH = (1, 16, 20), 16
PERMUTATION = torch.tensor([3, 0, 4, 1, 2])
both_encoders = pytest.mark.parametrize("make_encoder", [MlpEncoder, ConvEncoder])


def attentive(make_encoder=MlpEncoder, depth=2, shift=0.0):
    return AttentiveEncoder(make_encoder(IMAGE_SHAPE, WIDTH, 1, shift), depth).double()


def episodes(*batch):
    return torch.rand(*batch, *IMAGE_SHAPE, dtype=torch.float64)


@both_encoders
def test_permuting_images_or_episodes_permutes_their_encodings(make_encoder):
    encoder, episode = attentive(make_encoder), episodes(3, 5)
    encoded, others = encoder(episode), torch.tensor([2, 0, 1])
    assert encoded.shape == (3, 5, encoder.encoding_size)
    torch.testing.assert_close(encoder(episode[:, PERMUTATION]), encoded[:, PERMUTATION], atol=1e-12, rtol=0)
    torch.testing.assert_close(encoder(episode[others]), encoded[others], atol=1e-12, rtol=0)
    moved = encoder(episode[:, PERMUTATION])
    assert (moved - encoded).abs().max() > 1e-2  # the images do differ


def test_around_a_temporal_shift_the_order_still_matters():
    encoder, episode = attentive(shift=0.125), episodes(3, 5)
    assert (encoder(episode[:, PERMUTATION]) - encoder(episode)[:, PERMUTATION]).abs().max() > 1e-3


@both_encoders
def test_an_image_depends_on_all_images_of_its_episode_and_on_no_other_episode(make_encoder):
    encoder, episode = attentive(make_encoder, depth=1), episodes(2, 5).requires_grad_()
    probe = torch.randn(encoder.encoding_size, dtype=torch.float64)  # the sum alone is fixed by the last LayerNorm
    (gradient,) = torch.autograd.grad((encoder(episode)[1, 3] * probe).sum(), episode)
    assert (gradient[1].flatten(1).abs().amax(-1) > 1e-7).all()
    assert not gradient[0].any()


def test_images_in_company_of_themselves_alone_are_encoded_as_if_they_were_one():
    encoder, image = attentive(), episodes(2, 1)
    alone, company = encoder(image), encoder(image.expand(2, 4, *IMAGE_SHAPE))
    torch.testing.assert_close(company, alone.expand_as(company), atol=1e-12, rtol=0)
    assert alone.shape == (2, 1, encoder.encoding_size) and alone.isfinite().all()


def test_attention_is_a_mean_of_values_weighted_by_the_softmax_of_products():
    layer, features = ResidualAttention(6, 2).double(), torch.randn(1, 4, 6, dtype=torch.float64)
    normed, attention = layer.norm(features)[0], layer.attention
    query, key, value = (normed @ attention.in_proj_weight.T + attention.in_proj_bias).split(6, -1)
    mixed = [
        ((query[:, half] @ key[:, half].T) / 3**0.5).softmax(-1) @ value[:, half] for half in (slice(0, 3), slice(3, 6))
    ]
    expected = features[0] + attention.out_proj(torch.cat(mixed, -1))
    torch.testing.assert_close(layer(features)[0], expected, atol=1e-12, rtol=0)


@both_encoders
def test_every_parameter_receives_a_gradient(make_encoder):
    encoder = attentive(make_encoder)
    encoded = encoder(episodes(2, 5))
    (encoded * torch.randn_like(encoded)).sum().backward()
    for name, parameter in encoder.named_parameters():
        assert parameter.grad.abs().max() > 1e-6, name


@pytest.mark.parametrize("training", [True, False])
def test_bfloat16_stops_at_the_encoder(training):
    encoder, episode = attentive().float().train(training), episodes(2, 5).float()
    with torch.no_grad():
        exact, rounded = encoder(episode), InPrecision(encoder, torch.bfloat16)(episode)
    assert rounded.dtype == torch.float32
    assert 0 < (rounded - exact).abs().max() < 4 * 2**-8 * exact.abs().max()


def test_encodings_that_heads_cannot_share_are_refused():
    message = "attention: expected a multiple of 4 numbers of encodings, found 18"
    with pytest.raises(InputError, match=message):
        AttentiveEncoder(MlpEncoder(IMAGE_SHAPE, 18, 1, 0.0), 1)


def test_attention_without_a_layer_is_refused():
    with pytest.raises(InputError, match="attention: expected at least one layer, found 0"):
        AttentiveEncoder(MlpEncoder(IMAGE_SHAPE, WIDTH, 1, 0.0), 0)
