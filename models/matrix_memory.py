"""What the Kanerva Machine and its heirs share: a random matrix for a memory, read as a weighted sum of its rows.

| symbol | meaning                                       | shape        |
|--------|-----------------------------------------------|--------------|
| M      | memory of N rows, as wide as a latent         | (B, 1, N, D) |
| y_t    | key                                           | of the model |
| w_t    | weights of the rows, a function of the key    | (B, T, N)    |
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

_WIDE, _UNSURE = 2.5, 1.5  # raw values of scales of about 1 and 0.5, see `positive`


def matrix_normal(loc: Tensor, row_covariance: Tensor) -> MatrixNormal:
    """Distribution (B, 1) of memories, from locations (B, N, D) and row covariances (B, N, N); waits for no device."""
    factor, failed = torch.linalg.cholesky_ex(row_covariance)
    factor = factor.masked_fill((failed > 0)[..., None, None], torch.nan)
    return MatrixNormal(loc.unsqueeze(1), factor.unsqueeze(1))


class LinearMemory(nn.Module):
    """The linear part of a matrix memory, which its model and guide share: the guide writes by inference in it.

        M   ~ p(M)             = MN(R_0, u_0^2 I, I)         R_0 and u_0 learned
        z_t ~ N(w(y_t) M, sigma^2 I)                         sigma learned

    Args:
        rows: N.
        latent_size: D.
        addresses: network of the weights w(y), keys (..., *key_shape) to (..., N); the keys themselves if None.
        smallest_scale: lower bound of u_0 and sigma.
    """

    identity: Tensor

    def __init__(self, rows: int, latent_size: int, addresses: nn.Module | None, smallest_scale: float) -> None:
        super().__init__()
        self.smallest_scale = smallest_scale
        self.addresses = addresses
        self.memory_loc = nn.Parameter(torch.randn(rows, latent_size) / rows**0.5)  # then w ~ N(0, I) reads N(0, 1)
        self.raw_memory_scale = nn.Parameter(torch.tensor(_WIDE))  # what is written outweighs what was there
        self.raw_noise = nn.Parameter(torch.zeros(()))
        self.register_buffer("identity", torch.eye(rows), persistent=False)

    @property
    def memory_scale(self) -> Tensor:
        """u_0, scale of the memory's prior."""
        return positive(self.raw_memory_scale, self.smallest_scale)

    @property
    def noise(self) -> Tensor:
        """Sigma, scale of a latent around what is read; and of contents around it, where they are written."""
        return positive(self.raw_noise, self.smallest_scale)

    def prior(self) -> Distribution:
        """p(M): event (N, D)."""
        return MatrixNormal(self.memory_loc, self.memory_scale * self.identity)

    def weights(self, key: Tensor) -> Tensor:
        """w(y): weights (..., N) of the rows."""
        return key if self.addresses is None else self.addresses(key)

    def read(self, memory: Tensor, key: Tensor) -> Tensor:
        """What keys (..., B, T, *key_shape) read of memories (..., B, 1, N, D): (..., B, T, D)."""
        return self.weights(key) @ memory.squeeze(-3)


class MatrixMemoryModel(MemoryModel):
    """The generative model of matrix memories.

        M   ~ p(M)             = MN(R_0, u_0^2 I, I)
        y_t ~ p(y)
        z_t ~ p(z | M, y_t)    = N(w(y_t) M, sigma^2 I)
        x_t ~ p(x | z_t)       Bernoulli on logits

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

    def memory_prior(self) -> Distribution:
        """p(M): event (N, D)."""
        return self.linear.prior()

    def latent_prior(self, memory: Tensor, key: Tensor | None) -> Distribution:
        """p(z | M, y): event (D,)."""
        assert key is not None
        loc = self.linear.read(memory, key)
        return DiagonalNormal(loc, self.linear.noise.expand_as(loc))


class MatrixMemoryGuide(MemoryGuide):
    """What the guides of matrix memories share: the write is exact inference in the model's own linear part.

    Args:
        linear: the model's.
        networks: what it is made of.
    """

    def __init__(self, linear: LinearMemory, networks: GuideNetworks) -> None:
        super().__init__(networks)
        self.linear = linear
        head = LocScaleHead(networks.encoding_size, linear.memory_loc.shape[1], linear.smallest_scale)
        self.to_content = InPrecision(head, networks.dtype)

    def amortized_encoding(self, episode: Tensor) -> Encoding:
        """f_enc(X), and the parameters of q(z|X), whose location is the content that is written."""
        features = self.encoder(episode)
        return Encoding(features, *self.to_content(features))

    def read(self, memory: Tensor, key: Tensor) -> Tensor:
        """What keys read, (..., B, T, D)."""
        return self.linear.read(memory, key)


class SolvedKeyGuide(MatrixMemoryGuide):
    """A guide whose keys are the weights themselves, solved for in the memory, with noise of a learned scale.

        y_t ~ q(y_t | X, M) = N(w(c_t, M), sigma_w^2 I)

    Own images are found by their content, as cues are.
    """

    keys_need_memory = True

    def __init__(self, linear: LinearMemory, networks: GuideNetworks) -> None:
        super().__init__(linear, networks)
        self.raw_key_scale = nn.Parameter(torch.tensor(_UNSURE))

    def solve(self, contents: Tensor, memory: Tensor) -> Tensor:
        """Weights (..., B, T, N) that read contents (B, T, D) from memories (..., B, N, D)."""
        raise NotImplementedError

    def key_posterior(self, encoding: Encoding, memory: Tensor | None = None) -> Distribution:
        """q(y | X, M): event (N,).

        Raises:
            ValueError: no memory.
        """
        if memory is None:
            raise ValueError("expected a memory to solve for the keys in, found none")
        loc = self.solve(encoding.latent_loc, memory.squeeze(-3))
        return DiagonalNormal(loc, positive(self.raw_key_scale, self.linear.smallest_scale).expand_as(loc))


Matrix = TypeVar("Matrix", bound=MatrixMemoryModel)
MATRIX_SETTINGS = frozenset(
    {"memory_rows", "kl_memory_weight", "content_steps", "key_prior", "latent_context", "kl_key_start"}
)


def matrix_parts(
    parts: Parts, kind: type[Matrix], key_size: int, addresses: nn.Module | None = None
) -> tuple[Matrix, GuideNetworks]:
    """A model with a matrix memory, whose reads are as large as latents, and what its guide is made of."""
    rows, size = parts.config.program.memory_rows, parts.latent_size
    prior, decoder = parts.key_prior(key_size), parts.decoder(size)
    linear = LinearMemory(rows, size, addresses, SMALLEST_SCALE)
    model = kind(linear, prior, decoder, parts.image_shape, parts.dtype)
    return model, parts.guide_networks(model, size, size)
