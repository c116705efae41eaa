"""Model/guide pairs in float64 whose ln p(x | M), or ln p(X), is known: by quadrature, or in closed form."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import MultivariateNormal
from pyro.distributions.torch_distribution import TorchDistributionMixin as Distribution
from torch import Size, Tensor, nn

from kpp_pyro.fast_pyro import DiagonalNormal
from kpp_pyro.memory.blocks import Addressing, MemoryLayout
from kpp_pyro.networks.heads import IdentityReading
from kpp_pyro.posteriors.families import MeanFieldPosterior
from kpp_pyro.priors.interface import MemoryPrior
from kpp_pyro.priors.keys import StandardNormalPrior
from kpp_pyro.writes.blocks import AllocateWrite
from kpp_pyro.writes.feed_forward import FeedForwardWrite
from models.kanerva_plus_plus import KanervaPlusPlusGuide, KanervaPlusPlusModel
from models.memory_model import GuideNetworks
from models.pair import Pair

LAYOUT = MemoryLayout(channels=1, height=2, width=3, block_height=1, block_width=1)  # six blocks of one scalar
TINY_SHAPE = (1, 2, 2)
_EDGE = _BROAD = 0.1


class ContentReading(nn.Module):
    """p(z | M, y) of a block that is one scalar c: N(c, 0.3^2)."""

    def forward(self, blocks: Tensor) -> tuple[Tensor, Tensor]:
        content = blocks.flatten(-4)  # (..., 1)
        return content, torch.full_like(content, 0.3)


def tiny_program(write: Literal["allocate", "feed_forward"] = "allocate", gain: float = 2.0) -> Pair:
    """A Kanerva++ of one read and one latent, untrained; `gain` says how much of an image its latent decides."""
    with torch.random.fork_rng():
        torch.manual_seed(5)
        encoder, keys = nn.Sequential(nn.Flatten(2), nn.Linear(4, 4), nn.Tanh()), MeanFieldPosterior(4, Size([1, 3]))
        if write == "allocate":
            writing = AllocateWrite(LAYOUT, 4, smallest_scale=0.6)
            writing.addressing = Addressing(LAYOUT, _EDGE, _BROAD)
        else:
            writing = FeedForwardWrite(LAYOUT, 4, smallest_scale=0.6, keys=keys)
        decoder = nn.Sequential(nn.Linear(1, 4), nn.Unflatten(-1, TINY_SHAPE))
        decoder[0].weight.data = gain * torch.tensor([[1.0], [-0.5], [1.0], [0.8]])
    prior, latents = StandardNormalPrior(Size([1, 3]), TINY_SHAPE), MeanFieldPosterior(4, Size([1]))
    model = KanervaPlusPlusModel(writing.addressing, ContentReading(), prior, decoder, TINY_SHAPE).double()
    return Pair(model, KanervaPlusPlusGuide(GuideNetworks(encoder, 4, latents), writing).double())


def tiny_episodes(episodes: int = 2, images: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return (torch.rand(episodes, images, *TINY_SHAPE, dtype=torch.float64, generator=generator) < 0.5).double()


def tiny_memories(episodes: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(8)
    return torch.randn(episodes, 1, *LAYOUT.shape, dtype=torch.float64, generator=generator)


@torch.no_grad()
def log_evidence(model: KanervaPlusPlusModel, memory: Tensor, episode: Tensor, support: object = None) -> Tensor:
    """ln p(x | M), (B, T), of a model of one read and one latent, by quadrature over both.

    With `support`, a posterior of the keys, it is the integral over the keys that this posterior can draw.
    """
    key, mass = _key_nodes(model.addressing)  # (N, 3), (N,)
    latent = torch.linspace(-8, 8, 321, dtype=torch.float64)
    drawn = mass[:, None, None].expand(-1, *episode.shape[:2])  # (N, B, T)
    if support is not None:
        keys = key.view(-1, 1, 1, 1, 3).expand(-1, *episode.shape[:2], 1, 3)
        drawn = drawn * support.log_prob(keys).isfinite()
    reads = model.latent_prior(memory, key[:, None].expand(len(memory), -1, 1, 3))  # batch (B, N)
    density = reads.log_prob(latent.view(-1, 1, 1, 1)).exp()  # (Z, B, N)
    prior = torch.einsum("zbn,nbt->zbt", density, drawn)
    likelihood = model.image_likelihood(latent.view(-1, 1, 1, 1)).log_prob(episode).exp()  # (Z, B, T)
    return torch.trapezoid(prior * likelihood, latent, dim=0).log()


def _key_nodes(addressing: Addressing) -> tuple[Tensor, Tensor]:
    """Keys (N, 3) and their prior mass (N,): Gauss-Legendre between the kinks of a read."""

    def axis(kinks: list[float]) -> tuple[Tensor, Tensor]:
        nodes, weights = map(torch.from_numpy, np.polynomial.legendre.leggauss(4))
        parts = [((a + b + (b - a) * nodes) / 2, (b - a) / 2 * weights) for a, b in pairwise([0.0, *kinks, 1.0])]
        return torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])

    def treads(steps: int) -> list[float]:
        return [(n + side * addressing.edge / 2) / steps for n in range(1, steps) for side in (-1, 1)]

    axes = axis([1 - addressing.broad]), axis(treads(LAYOUT.columns)), axis(treads(LAYOUT.rows))
    uniform, mass = (torch.cartesian_prod(*parts) for parts in zip(*axes, strict=True))
    return torch.special.ndtri(uniform), mass.prod(-1)


@dataclass(frozen=True)
class LinearProgram:
    """M ~ N(0, I) or flat, y_t ~ N(0, I), z_t ~ N(M + A y_t, s^2 I), x_t ~ N(B z_t, t^2 I), with its exact posterior.

    A flat memory is the mean of B^T x in the guide.

    Attributes:
        random: whether the memory has a proper prior.
        widening: of the guide's deviations.
        offset: of the guide's means.
    """

    random: bool = False
    widening: float = 1.0
    offset: float = 0.0
    s: float = 0.7
    t: float = 0.5
    A: Tensor = field(default_factory=lambda: _matrix(2, 3, seed=1))
    B: Tensor = field(default_factory=lambda: _matrix(4, 2, seed=2))

    def model(self, episode, memory=None):
        with pyro.plate("episodes", episode.shape[0], dim=-2):
            flat = dist.ImproperUniform(dist.constraints.real, (), (2,))
            proper = dist.Normal(episode.new_zeros(2), 1.0).to_event(1)
            memory = pyro.sample("memory", proper if self.random else flat, obs=memory)
            with pyro.plate("images", episode.shape[1], dim=-1):
                key = pyro.sample("key", dist.Normal(episode.new_zeros(3), 1.0).to_event(1))
                latent = pyro.sample("latent", dist.Normal(memory + key @ self.A.mT, self.s).to_event(1))
                image = (latent @ self.B.mT).unflatten(-1, TINY_SHAPE)
                pyro.sample("image", dist.Normal(image, self.t).to_event(3), obs=episode)
        return latent

    def guide(self, episode, memory=None):
        pixels = episode.flatten(2)  # (B, T, P)
        with pyro.plate("episodes", episode.shape[0], dim=-2):
            if memory is None:
                memory = pyro.sample("memory", self.memory_posterior(pixels))
            with pyro.plate("images", episode.shape[1], dim=-1):
                left = pixels - memory @ self.B.mT
                key = pyro.sample("key", self._near(*_regress(_eye(3), self.B @ self.A, self.latent_noise(), left)))
                read = memory + key @ self.A.mT
                moved = _regress(self.s**2 * _eye(2), self.B, self.t**2 * _eye(4), pixels - read @ self.B.mT)
                pyro.sample("latent", self._near(read + moved[0], moved[1]))

    def memory_posterior(self, pixels):
        if not self.random:
            return dist.Delta((pixels @ self.B).mean(1, keepdim=True)).to_event(1)
        images = pixels.shape[1]
        noise = torch.block_diag(*[self.read_noise()] * images)
        mean, covariance = _regress(_eye(2), self.B.repeat(images, 1), noise, pixels.flatten(1))
        return self._near(mean.unsqueeze(1), covariance)

    def log_evidence(self, episode, memory=None):
        """ln p(x | M) (B, T) given a memory; ln p(X) (B,) of whole episodes without one."""
        pixels = episode.flatten(2)
        if memory is not None:
            return MultivariateNormal(memory @ self.B.mT, self.read_noise()).log_prob(pixels)
        images = pixels.shape[1]
        shared = torch.kron(torch.ones(images, images), self.B @ self.B.mT)
        covariance = shared + torch.block_diag(*[self.read_noise()] * images)
        return MultivariateNormal(covariance.new_zeros(len(covariance)), covariance).log_prob(pixels.flatten(1))

    def latent_noise(self):
        """Covariance of x_t given M and y_t."""
        return self.s**2 * self.B @ self.B.mT + self.t**2 * _eye(4)

    def read_noise(self):
        """Covariance of x_t given M."""
        return self.B @ self.A @ self.A.mT @ self.B.mT + self.latent_noise()

    def _near(self, mean, covariance):
        return MultivariateNormal(mean + self.offset, self.widening**2 * covariance)


class ExchangeableBlocks(MemoryPrior):
    """M_n = c + e_n, c ~ N(0, rho I), e_n ~ N(0, (1 - rho) I): blocks share c, of which each says something."""

    rho = 0.8

    def next_block(self, blocks: Tensor, temperature: float = 1.0) -> Distribution:
        """The posterior predictive, event (S,), of blocks (..., n, S)."""
        loc = self.gain(blocks.shape[-2]) * blocks.sum(-2)
        return DiagonalNormal(loc, torch.full_like(loc, temperature * self.variance(blocks.shape[-2]) ** 0.5))

    def gain(self, before: int) -> float:
        """What each of the n blocks before adds to the mean of the next, per scalar."""
        return self.rho / (1 - self.rho + before * self.rho)

    def variance(self, before: int) -> float:
        """Variance of the next block, given the n blocks before it, of each scalar."""
        return 1 - before * self.rho * self.gain(before)


class LinearImages(KanervaPlusPlusModel):
    """x ~ N(A z + b, noise^2 I), with a linear decoder."""

    noise = 0.5

    def image_likelihood(self, latent: Tensor) -> Distribution:
        """p(x | z): event (C, H, W)."""
        return dist.Normal(self.decoder(latent), self.noise).to_event(3)


def block_program(
    noise: float = 0.5, in_order: bool = True, has_latents: bool = False, widening: float = 1.1
) -> tuple[LinearImages, KanervaPlusPlusGuide]:
    """A Kanerva++ whose memory has a normal prior, the `ExchangeableBlocks`, and whose images are linear in its blocks.

    The guide has the posterior of a block under N(0, I), given its own image alone, without correlations; with latents,
    a wider one for both.

    Args:
        noise: deviation of pixels.
        in_order: whether image t reads block t; otherwise by keys, of which the guide's read block t.
        has_latents: whether latents are normals around what is read, in place of what is read itself.
        widening: of the guide's deviations.
    """
    layout = MemoryLayout(channels=1, height=2, width=6, block_height=1, block_width=2)  # six blocks of two scalars
    size, pixels = layout.read_scalars, math.prod(TINY_SHAPE)
    smallest = 1e-4
    writing = AllocateWrite(layout, pixels, smallest)
    writing.is_random = True
    reading = IdentityReading(layout, smallest_scale=0.5) if has_latents else nn.Flatten(-4)
    decoder = nn.Sequential(nn.Linear(size, pixels), nn.Unflatten(-1, TINY_SHAPE))
    decoder[0].weight.data, decoder[0].bias.data = _matrix(pixels, size, seed=2), _matrix(pixels, 1, seed=6)[:, 0]
    prior = StandardNormalPrior(Size([1, 3]), TINY_SHAPE)
    parts = writing.addressing, reading, prior, decoder, TINY_SHAPE
    model = LinearImages(*parts, block_prior=ExchangeableBlocks(), in_order=in_order).double()
    model.noise = noise
    design, offset = decoder[0].weight.data, decoder[0].bias.data
    gain, covariance = _regress(_eye(size), design, noise**2 * _eye(pixels), _eye(pixels))  # of each pixel, (P, S)
    of_latent = reading(torch.zeros(1, *layout.block_shape))[1].square().detach() if has_latents else 0.0
    scale = widening * (covariance.diagonal() + of_latent).sqrt()
    raw_scale = 2 + (scale - smallest).expm1().log()  # the inverse of `positive`
    content = writing.to_content.network.linear
    content.weight.data = torch.cat([gain.mT, torch.zeros_like(gain.mT)])
    content.bias.data = torch.cat([-offset @ gain, raw_scale])
    networks = GuideNetworks(nn.Flatten(2), pixels, MeanFieldPosterior(pixels, Size([size])))
    return model, KanervaPlusPlusGuide(networks, writing, in_order, has_latents).double()


def drawn_blocks(episodes: int, images: int, size: int = 2) -> Tensor:
    """Draws of `ExchangeableBlocks`, (B, T, S)."""
    generator, rho = torch.Generator().manual_seed(7), ExchangeableBlocks.rho
    shared = torch.randn(episodes, 1, size, dtype=torch.float64, generator=generator)
    own = torch.randn(episodes, images, size, dtype=torch.float64, generator=generator)
    return rho**0.5 * shared + (1 - rho) ** 0.5 * own


@torch.no_grad()
def block_evidence(model: LinearImages, episode: Tensor) -> Tensor:
    """ln p(x_t | x_1 ... x_t-1) of a `block_program` whose image t reads block t, (B, T)."""
    joint = [_joint_density(model, episode[:, :images]) for images in range(episode.shape[1] + 1)]
    return torch.stack(joint, 1).diff(dim=1)


def _joint_density(model: LinearImages, episode: Tensor) -> Tensor:
    """ln p(X), (B,)."""
    if not episode.numel():
        return episode.new_zeros(len(episode))
    blocks, design, noise = _linear_parts(model, episode.shape[1])
    pixels = _without_offset(model, episode)
    return MultivariateNormal(torch.zeros_like(pixels), design @ blocks @ design.mT + noise).log_prob(pixels)


@torch.no_grad()
def block_posterior(model: LinearImages, episode: Tensor) -> MultivariateNormal:
    """p(M | X) of the written blocks of a `block_program`: batch (B,), event (T S,)."""
    blocks, design, noise = _linear_parts(model, episode.shape[1])
    return MultivariateNormal(*_regress(blocks, design, noise, _without_offset(model, episode)))


@torch.no_grad()
def next_image_evidence(model: LinearImages, episode: Tensor, blocks: Tensor) -> Tensor:
    """ln p(x | M) of images (B, T, ...) that are not written, given the written blocks (B, n, S), (B, T)."""
    prior, before = model.block_prior, blocks.shape[1]
    _, design, noise = _linear_parts(model, 1)
    mean = model.decoder(prior.gain(before) * blocks.sum(1, keepdim=True)).flatten(2)  # (B, 1, P)
    covariance = prior.variance(before) * design @ design.mT + noise
    return MultivariateNormal(mean, covariance).log_prob(episode.flatten(2))


def _without_offset(model: LinearImages, episode: Tensor) -> Tensor:
    """Pixels of the T images that blocks of zeros do not explain, (B, T P)."""
    return (episode - model.decoder(model.decoder.network[0].weight.new_zeros(2))).flatten(1)


def _linear_parts(model: LinearImages, images: int) -> tuple[Tensor, Tensor, Tensor]:
    """Covariance of T blocks (T S, T S), the map to pixels (T P, T S), and the pixels' noise (T P, T P)."""
    each, memory = _eye(images), torch.zeros(1, 1, *model.memory_shape, dtype=torch.float64)
    design = model.decoder.network[0].weight  # (P, S)
    of_latent = model.latent_prior(memory, memory.new_zeros(1, 1, 1, 3)).variance.squeeze()  # (S,)
    noise = model.noise**2 * _eye(len(design)) + (design * of_latent) @ design.mT
    rho = ExchangeableBlocks.rho
    blocks = rho * torch.ones_like(each) + (1 - rho) * each
    return torch.kron(blocks, _eye(len(of_latent))), torch.kron(each, design), torch.kron(each, noise)


def linear_episodes(episodes: int = 2, images: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(4)
    return 1.5 * torch.randn(episodes, images, *TINY_SHAPE, dtype=torch.float64, generator=generator)


def _regress(covariance: Tensor, design: Tensor, noise: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and covariance of u ~ N(0, covariance), given value = design u + noise."""
    gain = covariance @ design.mT @ (design @ covariance @ design.mT + noise).inverse()
    posterior = covariance - gain @ design @ covariance
    return value @ gain.mT, (posterior + posterior.mT) / 2


def _eye(size: int) -> Tensor:
    return torch.eye(size, dtype=torch.float64)


def _matrix(rows: int, columns: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 0.7 * torch.randn(rows, columns, dtype=torch.float64, generator=generator)
