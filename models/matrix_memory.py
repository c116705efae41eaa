"""Matrix memories, the base of the Kanerva Machine and its successors: a read is a weighted sum of the memory's rows.

| symbol | meaning                                       | shape        |
|--------|-----------------------------------------------|--------------|
| M      | random memory of N rows, as wide as a latent  | (B, 1, N, D) |
| y_t    | key                                           | of the model |
| w_t    | row weights, a function of the key            | (B, T, N)    |
| c_t    | content: location of q(z|x), what is written  | (B, T, D)    |
"""

from __future__ import annotations

from typing import TypeVar

import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin as Distribution
from torch import Tensor, nn

from kpp_pyro.distributions.matrix_normal import MatrixNormal
from kpp_pyro.fast_pyro import DiagonalNormal
from kpp_pyro.networks.heads import InPrecision, LocScaleHead, positive
from kpp_pyro.priors.interface import KeyPrior
from kpp_pyro.writes.interface import Encoding
from models.memory_model import GuideNetworks, MemoryGuide, MemoryModel
from models.parts import SMALLEST_SCALE, Parts

_RAW_MEMORY_SCALE, _RAW_KEY_SCALE = 2.5, 1.5  # initial raw values; the scales are about 1 and 0.5, see `positive`


def matrix_normal(loc: Tensor, row_covariance: Tensor) -> MatrixNormal:
    """Distribution of memories, batch (B, 1), from locations (B, N, D) and row covariances (B, N, N).

    Does not synchronise with the device: a failed Cholesky factorisation gives NaN instead of an error.
    """
    factor, failed = torch.linalg.cholesky_ex(row_covariance)
    factor = factor.masked_fill((failed > 0)[..., None, None], torch.nan)
    return MatrixNormal(loc.unsqueeze(1), factor.unsqueeze(1))


class LinearMemory(nn.Module):
    """The linear part of a matrix memory, shared by model and guide: the write is inference in this linear model.

        M   ~ p(M)             = MN(R_0, u_0^2 I, I)         R_0 and u_0 learned
        z_t ~ N(w(y_t) M, sigma^2 I)                         sigma learned

    Args:
        rows: N.
        latent_size: D.
        addresses: network w(y), keys (..., *key_shape) to row weights (..., N); None if keys are row weights.
        smallest_scale: lower bound of u_0 and sigma.
    """

    identity: Tensor

    def __init__(self, rows: int, latent_size: int, addresses: nn.Module | None, smallest_scale: float) -> None:
        super().__init__()
        self.smallest_scale = smallest_scale
        self.addresses = addresses
        self.memory_loc = nn.Parameter(torch.randn(rows, latent_size) / rows**0.5)  # so that w ~ N(0, I) reads N(0, 1)
        self.raw_memory_scale = nn.Parameter(torch.tensor(_RAW_MEMORY_SCALE))  # wide: a write outweighs R_0
        self.raw_noise = nn.Parameter(torch.zeros(()))
        self.register_buffer("identity", torch.eye(rows), persistent=False)

    @property
    def memory_scale(self) -> Tensor:
        """u_0, scale of p(M)."""
        return positive(self.raw_memory_scale, self.smallest_scale)

    @property
    def noise(self) -> Tensor:
        """Sigma, scale of p(z | M, y), and of the contents' noise in the write."""
        return positive(self.raw_noise, self.smallest_scale)

    def prior(self) -> Distribution:
        """p(M): event (N, D)."""
        return MatrixNormal(self.memory_loc, self.memory_scale * self.identity)

    def row_weights(self, key: Tensor) -> Tensor:
        """Row weights w(y), (..., N), of keys (..., *key_shape)."""
        return key if self.addresses is None else self.addresses(key)

    def read(self, memory: Tensor, key: Tensor) -> Tensor:
        """Read w(y) M, (..., B, T, D), of memories (..., B, 1, N, D) through keys (..., B, T, *key_shape)."""
        return self.row_weights(key) @ memory.squeeze(-3)


class MatrixMemoryModel(MemoryModel):
    """The generative model of matrix memories.

        M   ~ p(M)             = MN(R_0, u_0^2 I, I)
        y_t ~ p(y)
        z_t ~ p(z | M, y_t)    = N(w(y_t) M, sigma^2 I)
        x_t ~ p(x | z_t)       by `likelihood`

    Args:
        linear: p(M), w(y) and sigma.
        key_prior: p(y).
        decoder: network of p(x | z).
        image_shape: (C, H, W).
        dtype: precision in which the decoder runs.
    """

    def __init__(
        self,
        linear: LinearMemory,
        key_prior: KeyPrior,
        decoder: nn.Module,
        image_shape: tuple[int, int, int],
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__(key_prior, decoder, image_shape, dtype)
        self.linear = linear

    @property
    def memory_shape(self) -> tuple[int, int]:
        """Event shape of a memory, (N, D)."""
        rows, latent_size = self.linear.memory_loc.shape
        return rows, latent_size

    def memory_prior(self, images: int) -> Distribution:
        """p(M): event (N, D), for any number of images."""
        return self.linear.prior()

    def latent_prior(self, memory: Tensor, key: Tensor | None) -> Distribution:
        """p(z | M, y): event (D,)."""
        assert key is not None
        loc = self.linear.read(memory, key)
        return DiagonalNormal(loc, self.linear.noise.expand_as(loc))


class MatrixMemoryGuide(MemoryGuide):
    """Base of the guides of matrix memories: the write is inference in the model's linear part.

    Args:
        linear: the model's linear part.
        networks: encoder and posterior families.
    """

    def __init__(self, linear: LinearMemory, networks: GuideNetworks) -> None:
        super().__init__(networks)
        self.linear = linear
        size = linear.memory_loc.shape[1]
        head = LocScaleHead(networks.encoding_size, size, linear.smallest_scale, networks.is_code)
        self.to_content = InPrecision(head, networks.dtype)

    def amortized_encoding(self, episode: Tensor) -> Encoding:
        """f_enc(X), and location (the content) and scale of q(z|X)."""
        features = self.encoder(episode)
        return Encoding(features, *self.to_content(features))

    def read(self, memory: Tensor, key: Tensor) -> Tensor:
        """Read w(y) M, (..., B, T, D)."""
        return self.linear.read(memory, key)


class SolvedKeyGuide(MatrixMemoryGuide):
    """A guide whose keys are the row weights, solved for in the memory.

        y_t ~ q(y_t | X, M) = N(w(c_t, M), sigma_w^2 I)      sigma_w learned

    The keys of written images and of cues are computed alike, from their contents.
    """

    keys_need_memory = True

    def __init__(self, linear: LinearMemory, networks: GuideNetworks) -> None:
        super().__init__(linear, networks)
        self.raw_key_scale = nn.Parameter(torch.tensor(_RAW_KEY_SCALE))

    def solve(self, contents: Tensor, memory: Tensor) -> Tensor:
        """Row weights (..., B, T, N) with which memories (..., B, N, D) read back contents (B, T, D)."""
        raise NotImplementedError

    def key_posterior(self, encoding: Encoding, memory: Tensor | None = None) -> Distribution:
        """q(y | X, M): event (N,).

        Raises:
            ValueError: no memory is given.
        """
        if memory is None:
            raise ValueError("expected a memory to solve for the keys in, found none")
        loc = self.solve(encoding.latent_loc, memory.squeeze(-3))
        return DiagonalNormal(loc, positive(self.raw_key_scale, self.linear.smallest_scale).expand_as(loc))


Matrix = TypeVar("Matrix", bound=MatrixMemoryModel)
MATRIX_SETTINGS = frozenset(
    {
        *("memory_rows", "content_steps", "training_content_steps", "key_prior", "latent_context"),
        *("kl_key_start", "kl_memory_start", "kl_memory_weight"),
    }
)


def matrix_parts(
    parts: Parts, kind: type[Matrix], key_size: int, addresses: nn.Module | None = None
) -> tuple[Matrix, GuideNetworks]:
    """A model with a matrix memory, and the networks of its guide; a read has D scalars, as a latent has."""
    rows, size = parts.config.program.memory_rows, parts.latent_size
    prior, decoder = parts.key_prior(key_size), parts.decoder(size)
    linear = LinearMemory(rows, size, addresses, SMALLEST_SCALE)
    model = kind(linear, prior, decoder, parts.image_shape, parts.dtype)
    return model, parts.guide_networks(model, size, size)
