"""The probabilistic program and the guide of all memory models; the models differ in their densities.

| symbol | meaning                          | site       | batch  | event            |
|--------|----------------------------------|------------|--------|------------------|
| X      | episode of images                | `episode`  | (B, T) | (C, H, W)        |
| M      | memory                           | `"memory"` | (B, 1) | `memory_shape`   |
| y_t    | key: how an image is read from M | `"key"`    | (B, T) | of the key prior |
| z_t    | latent code of one image         | `"latent"` | (B, T) | (D,)             |
| x_t    | one image                        | `"image"`  | (B, T) | (C, H, W)        |

Plates: `"episodes"` at dim -2, `"images"` at dim -1. A particle plate, where there is one, is at dim -3.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.distributions.torch_distribution import TorchDistributionMixin as Distribution
from torch import Size, Tensor, nn

from kpp_pyro.errors import InputError
from kpp_pyro.fast_pyro import Plate, ProgramModule, unrecorded_parameters
from kpp_pyro.likelihoods import LIKELIHOODS
from kpp_pyro.memory.blocks import Addressing
from kpp_pyro.networks.heads import InPrecision, LocScaleHead
from kpp_pyro.posteriors.interface import Posterior
from kpp_pyro.priors.interface import KeyPrior
from kpp_pyro.writes.interface import Encoding


class FlatPrior(dist.ImproperUniform):
    """An improper flat density, on the device and of the dtype of its value; Pyro's own stays on the CPU.

    It cannot be sampled. Where Pyro runs a model forward only to find its sites (`Predictive`, `render_model`,
    autoguides), `sample` returns an empty memory, all zeros.

    Args:
        like: a tensor of the device and dtype of an empty memory.
        event_shape: shape of a memory.
        batch_shape: batch shape from the plates.
    """

    def __init__(self, like: Tensor, event_shape: tuple[int, ...], batch_shape: Size = Size()) -> None:
        self._like = like
        super().__init__(dist.constraints.real, batch_shape, Size(event_shape))

    def expand(self, batch_shape: Any, _instance: Any = None) -> FlatPrior:
        """Expand to a batch shape."""
        return FlatPrior(self._like, self.event_shape, Size(batch_shape))

    def sample(self, sample_shape: Any = Size()) -> Tensor:
        """An empty memory, all zeros, in place of a draw."""
        return self._like.new_zeros(self.shape(sample_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        """Zero: the constant of a flat density is dropped."""
        return value.new_zeros(()).expand(super().log_prob(value).shape)


def require_episode(episode: Tensor, image_shape: tuple[int, int, int] | None) -> None:
    """Raise InputError unless the episode is floats (B, T, C, H, W), with the image shape (C, H, W) if it is known."""
    if not isinstance(episode, Tensor):
        raise InputError(f"episode: expected a torch tensor, found {type(episode).__name__}")
    if episode.ndim != 5:
        shape = tuple(episode.shape)
        raise InputError(f"episode: expected shape (B, T, C, H, W), found {shape}; images[None] is one episode")
    if not episode.is_floating_point():
        raise InputError(f"episode: expected floats, such as images / 255, found {episode.dtype}")
    if image_shape is not None and episode.shape[-3:] != image_shape:
        raise InputError(f"episode: expected images {image_shape}, found {tuple(episode.shape[-3:])}")


class MemoryModel(ProgramModule):
    """The generative model: reads a memory and decodes what was read.

        M   ~ p(M)             observed where a memory is given
        y_t ~ p(y)             own images may be read in a given order instead, without a key
        z_t ~ p(z | M, y_t)    or what is read itself
        x_t ~ p(x | z_t)       by `likelihood`, the name of a registered likelihood

    The model is called like its guide: without a memory, `episode` holds the images that are written, its own images;
    with a memory, its images are cues.

    Args:
        key_prior: p(y); None for a model without keys, which reads nothing.
        decoder: network of p(x | z), latents (..., D) to the outputs that the likelihood asks for.
        image_shape: (C, H, W).
        dtype: precision in which the decoder runs.
    """

    likelihood = "bernoulli"  # name of p(x | z)
    addressing: Addressing | None = None  # key -> place; None for a memory without blocks

    def __init__(
        self,
        key_prior: KeyPrior | None,
        decoder: nn.Module,
        image_shape: tuple[int, int, int],
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self.image_shape = image_shape
        self.keys = key_prior
        self.decoder = InPrecision(decoder, dtype)

    @property
    def memory_shape(self) -> tuple[int, ...]:
        """Event shape of a memory."""
        raise NotImplementedError

    @property
    def key_shape(self) -> tuple[int, ...]:
        """Event shape of a key."""
        assert self.keys is not None
        return tuple(self.keys.key_shape)

    def memory_prior(self, images: int) -> Distribution:
        """p(M) of T = `images` images, event `memory_shape`: flat, a constant that is dropped, unless overridden."""
        return self.given_memory_prior()

    def given_memory_prior(self) -> Distribution:
        """A flat density, event `memory_shape`: all is conditional on a memory that is given."""
        return FlatPrior(next(self.parameters()).detach(), self.memory_shape)

    def key_prior(self) -> Distribution:
        """p(y), event `key_shape`."""
        assert self.keys is not None
        return self.keys()

    def own_key_prior(self, episodes: int, images: int) -> Distribution:
        """p(y_t) of own images: p(y), or points (B, T) where the order of the images says what they read."""
        return self.key_prior()

    def bind_guide(self, guide: MemoryGuide) -> None:
        """Give the key prior the guide's q(y | X); the prior `vamp` is a mixture of such posteriors."""
        if self.keys is not None:
            self.keys.bind_guide(guide.cued_keys)

    def latent_prior(self, memory: Tensor, key: Tensor | None) -> Distribution:
        """p(z | M, y): memory (..., B, 1, *memory_shape) and key (..., B, T, *key_shape) to event (D,)."""
        raise NotImplementedError

    def mean_read_prior(self, memory: Tensor, key: Distribution) -> Distribution:
        """p(z | M, y), batch (B, T), at the mean read of a distribution of keys; here, at the read of its mode."""
        return self.latent_prior(memory, key.mode)

    def image_likelihood(self, latent: Tensor) -> Distribution:
        """p(x | z): latents (..., B, T, D) to event (C, H, W)."""
        return LIKELIHOODS[self.likelihood].distribution(self.decoder(latent), self.image_shape[0])

    def forward(self, episode: Tensor, memory: Tensor | None = None) -> Tensor:
        """Run the program on an episode (B, T, C, H, W), given a memory (B, 1, *memory_shape) or none.

        Raises:
            InputError: an episode of another shape.
        """
        require_episode(episode, self.image_shape)
        episodes, images = episode.shape[:2]
        own = memory is None
        memory_prior = self.memory_prior(images) if own else self.given_memory_prior()
        with Plate("episodes", episodes, dim=-2):
            memory = pyro.sample("memory", memory_prior, obs=memory)
            with Plate("images", images, dim=-1):
                key = None
                if self.keys is not None:
                    key = draw("key", self.own_key_prior(episodes, images) if own else self.key_prior())
                latent = draw("latent", self.latent_prior(memory, key))
                return pyro.sample("image", self.image_likelihood(latent), obs=episode)

    def generate(self, memory: Tensor, images: int) -> poutine.Trace:
        """Trace of the model run forward, with T = `images` samples from each of the memories (B, 1, *memory_shape)."""
        template = memory.new_empty(memory.shape[0], images, *self.image_shape)  # only its shape is used
        generative = poutine.condition(poutine.uncondition(self), data={"memory": memory})
        with unrecorded_parameters():
            return poutine.trace(generative).get_trace(template, memory)


def draw(site: str, distribution: Distribution) -> Tensor:
    """Sample a site of the model; a point is no random site, and is recorded as a deterministic one."""
    value = point_of(distribution)
    return pyro.sample(site, distribution) if value is None else pyro.deterministic(site, value, distribution.event_dim)


def point_of(distribution: Distribution) -> Tensor | None:
    """The value of a point; None of a distribution that has a density."""
    return distribution.v if isinstance(distribution, dist.Delta) else None


@dataclass(frozen=True)
class GuideNetworks:
    """The networks of every guide.

    Attributes:
        encoder: f_enc, episodes (B, T, C, H, W) to features (B, T, F).
        encoding_size: F.
        latents: the family of q(z | X), given the location and scale in an `Encoding`.
        correction: for q(z | X, M, y): features (..., F) and reads (..., S) to changes of location and scale, see
            `LatentCorrection`; None for q(z | X).
        ascent: learned steps of latents, from latents or logits (B, T, D), their episode and features to latents; None:
            none.
        preparations: functions applied to contents in order before they are written, except in training: contents
            (B, T, D) and their episode to contents.
        training_preparations: those of training.
        dtype: precision in which the networks run.
        image_shape: (C, H, W) that episodes have to have; None: not checked.
        is_code: whether encodings start as a code of the pixels, see `NetworkFamily`; latents then start as its first D
            numbers.
    """

    encoder: nn.Module
    encoding_size: int
    latents: Posterior
    correction: nn.Module | None = None
    ascent: nn.Module | None = None
    preparations: tuple[Callable[[Tensor, Tensor], Tensor], ...] = ()
    training_preparations: tuple[Callable[[Tensor, Tensor], Tensor], ...] = ()
    dtype: torch.dtype = torch.float32
    image_shape: tuple[int, int, int] | None = None
    is_code: bool = False


class MemoryGuide(ProgramModule):
    """The variational posterior: q of the memory that an episode writes, and of each image's key and latent.

        M   ~ q(M | X)         absent where a memory is given
        y_t ~ q(y_t | X, M)    absent where the order of the images says what they read
        z_t ~ q(z_t | X)       or q(z_t | X, M, y_t); absent where the latent is what is read

    Without a memory, the guide writes `episode`, and q(y_t | X, M) is the key of an image that was written. With a
    memory, the guide writes nothing; the images of `episode` are cues, which it looks for in that memory. The write
    does not depend on draws of keys or latents: given M, the images are independent in the guide too.

    Args:
        networks: encoder and posterior families.
    """

    has_keys = True
    keys_need_memory = False  # whether q(y | X, M) of written images, too, is computed from the memory
    has_latents = True  # False where latents are what is read, and therefore no random site

    def __init__(self, networks: GuideNetworks) -> None:
        super().__init__()
        correction, dtype = networks.correction, networks.dtype
        self.encoder = InPrecision(networks.encoder, dtype)
        self.latents = networks.latents
        self.correction = None if correction is None else InPrecision(correction, dtype)
        self.ascent = None if networks.ascent is None else InPrecision(networks.ascent, dtype)
        self.preparations, self.training_preparations = networks.preparations, networks.training_preparations
        self.image_shape = networks.image_shape

    @property
    def latent_sees_read(self) -> bool:
        """Whether the latent's posterior is q(z | X, M, y), which depends on what the key reads."""
        return self.correction is not None

    def encode(self, episode: Tensor) -> Encoding:
        """f_enc(X), and the parameters of q(z|X), whose location has gone through the encoder's steps.

        It has gone through the `preparations` too; in training, through the `training_preparations`.

        By default, training skips content steps: a decoder trained on the encoder's contents also decodes improved
        ones, and the shorter steps learn more in equal time.
        """
        encoding = self.amortized_encoding(episode)
        content = encoding.latent_loc
        if self.ascent is not None:
            start = content if encoding.latent_logits is None else encoding.latent_logits
            content = self.ascent(start, episode, encoding.features)
        for prepare in self.training_preparations if self.training else self.preparations:
            content = prepare(content, episode)
        return dataclasses.replace(encoding, latent_loc=content)

    def amortized_encoding(self, episode: Tensor) -> Encoding:
        """f_enc(X), and the parameters of q(z|X), from one pass of the networks: without any steps."""
        raise NotImplementedError

    def memory_posterior(self, encoding: Encoding) -> Distribution:
        """q(M|X): batch (B, 1), event `memory_shape`."""
        raise NotImplementedError

    def key_posterior(self, encoding: Encoding, memory: Tensor | None = None) -> Distribution:
        """q(y|X, M): of cues where a memory is given; without one, of the images that were written."""
        raise NotImplementedError

    def cued_keys(self, episode: Tensor) -> Distribution:
        """q(y|X) of episodes (B, T, C, H, W), for a guide whose keys need neither memory nor contents."""
        return self.key_posterior(self.amortized_encoding(episode))

    def read(self, memory: Tensor, key: Tensor) -> Tensor:
        """Read (..., B, T, S) memories (..., B, 1, *memory_shape) through keys (..., B, T, *key_shape)."""
        raise NotImplementedError

    def latent_posterior(
        self, encoding: Encoding, memory: Tensor | None = None, key: Tensor | None = None
    ) -> Distribution:
        """q(z | X), event (D,); or q(z | X, M, y), where the guide has a correction and memory and key are given."""
        loc, scale = encoding.latent_loc, encoding.latent_scale
        if self.correction is not None and memory is not None and key is not None:
            shift, log_change = self.correction(encoding.features, self.read(memory, key))
            loc, scale = loc + scale * shift, scale * log_change.exp()
        return self.latents(loc, scale, encoding.features)

    @torch.no_grad()
    def write_memory(self, episode: Tensor, seed: int | None = None) -> Tensor:
        """Memories M ~ q(M | X), (B, 1, *memory_shape), of episodes (B, T, C, H, W); draws no key and no latent.

        Args:
            episode: images to write.
            seed: seed of a random memory's draw, which then leaves the random state unchanged; None draws from the
                random state. A deterministic memory draws nothing.
        """
        return self.write_encoding(self.encode(episode), seed)

    @torch.no_grad()
    def write_encoding(self, encoding: Encoding, seed: int | None = None) -> Tensor:
        """`write_memory` of images that are encoded already."""
        posterior = self.memory_posterior(encoding)
        if seed is None or isinstance(posterior, dist.Delta):
            return posterior.sample()
        device = encoding.features.device
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(seed)
            return posterior.sample()

    def amortize(self, episode: Tensor, memory: Tensor | None = None) -> Callable[..., None]:
        """Encode and write once, and return the posterior as a Pyro program, which can be run for any number of draws.

        The program is called like the guide, with the same episode and memory.
        """
        return self.amortize_encoded(self.encode(episode), memory)

    def encoded(self, episode: Tensor) -> EncodedGuide:
        """The guide of these images alone, (B, T, C, H, W), which are encoded once for all memories."""
        return EncodedGuide(self, self.encode(episode))

    def amortize_encoded(self, encoding: Encoding, memory: Tensor | None = None) -> Callable[..., None]:
        """`amortize` of images that are encoded already."""
        written = self.memory_posterior(encoding) if memory is None else None  # a given memory is not written
        unknown_key = not self.has_keys or (memory is None and self.keys_need_memory)
        known_key = None if unknown_key else self.key_posterior(encoding, memory)
        known_latent = None if self.latent_sees_read or not self.has_latents else self.latent_posterior(encoding)

        def posterior(episode: Tensor, memory: Tensor | None = None) -> None:
            with Plate("episodes", episode.shape[0], dim=-2):
                if written is not None:
                    memory = pyro.sample("memory", written)
                with Plate("images", episode.shape[1], dim=-1):
                    key = None
                    if self.has_keys:
                        of_key = known_key or self.key_posterior(encoding, memory)
                        key = point_of(of_key)
                        key = pyro.sample("key", of_key) if key is None else key
                    if self.has_latents:
                        pyro.sample("latent", known_latent or self.latent_posterior(encoding, memory, key))

        return posterior

    def forward(self, episode: Tensor, memory: Tensor | None = None) -> None:
        """Run the guide on an episode (B, T, C, H, W), given a memory (B, 1, *memory_shape) or None.

        Raises:
            InputError: an episode of another shape.
        """
        require_episode(episode, self.image_shape)
        self.amortize(episode, memory)(episode, memory)


class KeysFromImages(MemoryGuide):
    """A guide whose keys are a network's output, the same for written images and for cues.

    y_t ~ q(y_t | X)
    """

    has_keys = True

    def add_keys(self, networks: GuideNetworks, keys: Posterior, smallest_scale: float) -> None:
        """Make the network of q(y | X); `keys` is its family, and `smallest_scale` the lower bound of its scale."""
        self.keys = keys
        head = LocScaleHead(networks.encoding_size, keys.event_shape[0], smallest_scale)
        self.to_key = InPrecision(head, networks.dtype)

    def key_posterior(self, encoding: Encoding, memory: Tensor | None = None) -> Distribution:
        """q(y | X): event (S,)."""
        return self.keys(*self.to_key(encoding.features), encoding.features)


@dataclass(frozen=True)
class EncodedGuide:
    """A guide of images that are encoded already; it is called like the guide, with these images.

    Attributes:
        guide: the guide.
        encoding: of the images.
    """

    guide: MemoryGuide
    encoding: Encoding

    def amortize(self, episode: Tensor, memory: Tensor | None = None) -> Callable[..., None]:
        """See `MemoryGuide.amortize`."""
        return self.guide.amortize_encoded(self.encoding, memory)

    def write_memory(self, episode: Tensor, seed: int | None = None) -> Tensor:
        """See `MemoryGuide.write_memory`."""
        return self.guide.write_encoding(self.encoding, seed)

    def __call__(self, episode: Tensor, memory: Tensor | None = None) -> None:
        """Run the guide."""
        self.amortize(episode, memory)(episode, memory)
