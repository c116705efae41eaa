"""Use of a trained memory: write images, recall them from corrupted copies, complete, generate, interpolate, sample.

    images = read_pictures("drawings", memories.image_shape)
    memory = memories.write(images)
    recalled = memories.recall(memory, cues, steps=5)[-1].images

One read of a cue is deterministic: the mean read under q(y | x, M) gives p(z | M, y), whose mean is decoded to the
pixel probabilities of p(x | z). In iterative reading, the pixel probabilities are the next cue,

    x <- decode(read(M, q(y | x, M)))                                            (Kanerva++, section 4)

with means in place of the paper's draws. The mean read averages over the blocks of a `BlockKey`; for normal keys and
packed signs, the mode of q(y | x, M) is read instead. Where a corrupted cue matches several blocks, the first read is a
blend of them, and later reads converge to one. Keys drawn from the prior also read blocks that no image was written to;
iterative reading then leads to a block that was written.

Where the prior of memories is a proper one, memories are also sampled without any image, and continued:

    episode = memories.read_written(memories.sample_memory(images=8)).images      M ~ p(M)
    more = memories.read_written(memories.extend(memory, samples=16)).images[:, -1]      M' ~ p(M' | M), 16 times

Shapes: images, cues and masks are (T, C, H, W) for one memory, or (B, T, C, H, W) for B memories. The cues of a call
are encoded as an episode: an encoder with a temporal shift uses neighbours too.
"""

from __future__ import annotations

import hashlib
import json
import math
import sys
from dataclasses import asdict, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Literal, TypeVar

import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin as Distribution
from torch import Tensor

from inference.memory_types import CueingGuide, Decoded, Memory, Read, ReadableModel
from inference.ranges import CleanUpReads, InterpolatedImages, Reads, Samples, Seed, Temperature
from inference.tracing import own_randomness, site_mean, site_value
from kpp_pyro.arguments import checked
from kpp_pyro.distances import Distance, distance_of
from kpp_pyro.distributions.block_memory import BlockMemory, held_blocks, memory_of
from kpp_pyro.errors import InputError
from kpp_pyro.likelihoods import LIKELIHOODS
from kpp_pyro.memory.blocks import Addressing
from kpp_pyro.schema import Count
from models.memory_model import MemoryGuide, MemoryModel

_DTYPES = {getattr(torch, name) for name in ("bool", "uint8", "int8", "int16", "int32", "int64")} | {
    torch.float16,
    torch.bfloat16,
    torch.float32,
    torch.float64,
}  # dtypes that torch computes with
_LARGEST = 1e6  # absolute value of a memory or a key: with much more, what is decoded is not finite
Record = TypeVar("Record", Decoded, Read)


class TrainedMemory:
    """A trained model and its guide, used as a memory. For a run folder: `inference.load(path).memory`.

    Every method takes one memory and images (T, C, H, W), or B memories and images (B, T, C, H, W); the B memories are
    independent. Images are intensities in [0, 1], on any device; results are on the model's device. The parameters must
    not change, since the fingerprint of the parameters identifies the model's memories.

    Args:
        model: a memory model.
        guide: its guide.

    Attributes:
        image_shape: (C, H, W).
        device: device of the parameters.
        dtype: dtype of the parameters.

    Raises:
        InputError: the model has no memory.
    """

    def __init__(self, model: ReadableModel, guide: CueingGuide) -> None:
        if not (isinstance(model, MemoryModel) and isinstance(guide, MemoryGuide)):
            found = f"a {type(model).__name__} and a {type(guide).__name__}"
            raise InputError(f"model, guide: expected a model with a memory, and its guide, found {found}")
        if not model.memory_shape or not all(model.memory_shape):
            raise InputError(f"{type(model).__name__}: expected a model with a memory, found one without")
        self.model, self.guide = model, guide
        self._noted = False
        self.image_shape = model.image_shape
        parameter = next(iter(model.state_dict().values()))
        self.device, self.dtype = parameter.device, parameter.dtype
        if self.dtype not in (torch.float32, torch.float64):
            raise InputError(f"model: expected parameters in float32 or float64, found {self.dtype}")

    @property
    def addressing(self) -> Addressing:
        """The map from keys to places in the memory.

        Raises:
            InputError: the model's memory has no blocks.
        """
        addressing = self.model.addressing
        if addressing is None:
            raise InputError(f"{type(self.model).__name__}: expected a memory of blocks, found one without")
        return addressing

    @property
    def capacity(self) -> int:
        """Number of images that a memory holds apart: blocks / R, or rows of a matrix. More images mix.

        `inference.Collection` writes any number of images, to as many memories as they take.
        """
        return self.addressing.layout.capacity if self.model.addressing else self.model.memory_shape[0]

    @property
    def distance(self) -> Distance:
        """The distance of estimates from images that fits the likelihood."""
        return distance_of(LIKELIHOODS[self.model.likelihood].levels)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the addressing, if any, and of all parameters; identifies the model that wrote a memory."""
        addressing = self.model.addressing and asdict(self.model.addressing)
        digest = hashlib.sha256(json.dumps(addressing).encode())
        for part in (self.model, self.guide):
            for name, value in sorted(part.state_dict().items()):
                digest.update(name.encode())
                digest.update(value.detach().cpu().reshape(-1).contiguous().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    @checked
    def write(self, images: Tensor, seed: Seed = 0) -> Memory:
        """Write one memory from each episode; the random state is left unchanged.

        Args:
            images: (T, C, H, W), or (B, T, C, H, W). Where T is more than `capacity`, a note on stderr says so.
            seed: seed of a random memory's draw.

        Returns:
            One memory, or B memories.

        Raises:
            InputError: images of another shape than the model's, or intensities outside [0, 1].
        """
        episodes = self.checked_images("images", images)
        self._note_shared(episodes.shape[1])
        value = self.guide.write_memory(episodes, seed).squeeze(1)
        if value.shape[1:] != self.model.memory_shape:
            found = f"{type(self.guide).__name__} of another model, which writes {tuple(value.shape[1:])}"
            raise InputError(f"guide: expected one that writes {self.model.memory_shape}, found a {found}")
        return Memory(value if images.ndim == 5 else value[0], self.fingerprint)

    @checked
    def load(self, path: Path | str) -> Memory:
        """Load a memory that this model wrote and `Memory.save` saved.

        Raises:
            InputError: the file is missing, corrupt or of another format, or holds a memory of another model.
        """
        memory = Memory.load(path)
        self._value(memory, str(path))
        return Memory(memory.value.to(self.device), memory.author)

    @checked
    @torch.no_grad()
    def locate(self, memory: Memory, cues: Tensor) -> Tensor:
        """Keys (..., T, *key_shape) of cues: the mode of q(y | x, M).

        Raises:
            InputError: a memory of another model, or cues of another shape.
        """
        value, episodes = self._value_and_cues(memory, cues)
        keys = self._locate(value, episodes)
        return keys if self._batch(memory) else keys.squeeze(0)

    @checked
    @torch.no_grad()
    def read(self, memory: Memory, keys: Tensor) -> Read:
        """Read a memory through keys (..., N, *key_shape): N means of p(z | M, y), decoded.

        Raises:
            InputError: a memory of another model, keys of another shape, or numbers that are not finite.
        """
        value = self._value(memory)
        return self._like(memory, self._read(value, self._keys(memory, keys)))

    @checked
    def recall(self, memory: Memory, cues: Tensor, steps: Reads = 1) -> list[Read]:
        """Iterative reading: x <- decode(read(M, q(y | x, M))), from x = cues.

        Args:
            memory: memory to read from.
            cues: (..., T, C, H, W), such as corrupted copies of written images.
            steps: number of reads.

        Returns:
            The T reads after each step.

        Raises:
            InputError: a memory of another model, cues of another shape, or less than one step.
        """
        require_tensor("cues", cues)
        return self.complete(memory, cues, torch.zeros_like(cues, dtype=torch.bool), steps)

    @checked
    @torch.no_grad()
    def complete(self, memory: Memory, cues: Tensor, mask: Tensor, steps: Reads = 1) -> list[Read]:
        """Iterative reading of cues with missing pixels: the known pixels are put back after each read.

        Args:
            memory: memory to read from.
            cues: (..., T, C, H, W); values at missing pixels are ignored.
            mask: bool, (..., T, C, H, W), True where a pixel is missing. In a cue without missing pixels, nothing is
                put back, as in `recall`.
            steps: number of reads.

        Returns:
            The T reads after each step. Their images are decoded: known pixels may also differ from the cue's.

        Raises:
            InputError: a memory of another model, cues or mask of another shape, or less than one step.
        """
        require_tensor("cues", cues)
        require_tensor("mask", mask)
        if mask.shape != cues.shape or mask.dtype != torch.bool:
            raise InputError(f"mask: expected bool {tuple(cues.shape)}, found {described(mask)}")
        if cues.is_floating_point():
            cues = cues.masked_fill(mask.to(cues.device), 0)  # missing pixels are often NaN
        value, episodes = self._value_and_cues(memory, cues)
        missing = mask.to(self.device).view_as(episodes)
        estimate, reads = filled(episodes, missing), []
        for _ in range(steps):
            read = self._recall(value, estimate)
            reads.append(self._like(memory, read))
            estimate = next_cue(episodes, missing, read.images)
        return reads

    @checked
    @torch.no_grad()
    def generate(self, memory: Memory, n: Samples, steps: CleanUpReads = 0) -> Read:
        """Sample n images from a memory, y ~ p(y) and z ~ p(z | M, y), by torch's global random state.

        Args:
            memory: memory to read from.
            n: number of images from each memory.
            steps: number of iterative reads that clean up the samples; the samples are the first cues.

        Returns:
            n samples; with clean-up, the last reads.

        Raises:
            InputError: a memory of another model, less than one image, or a negative number of steps.
        """
        value = self._value(memory)
        trace = self.model.generate(value, n)
        samples = Read(site_value(trace, "latent"), site_mean(trace, "image"), site_value(trace, "key"))
        samples = self._like(memory, samples)
        return self.recall(memory, samples.images, steps)[-1] if steps else samples

    @checked
    @torch.no_grad()
    def interpolate(
        self,
        memory: Memory,
        cue_a: Tensor,
        cue_b: Tensor,
        n: InterpolatedImages,
        through: Literal["keys", "latents"] = "keys",
    ) -> Read:
        """Interpolate linearly between the keys, or the latents, of two cues.

        Args:
            memory: memory to read from.
            cue_a: (..., C, H, W), the first image's cue.
            cue_b: (..., C, H, W), the last image's cue.
            n: number of images, both ends included; at least 2.
            through: "keys": each image is a read of the memory through an interpolated key. "latents": each image is
                decoded from an interpolation of the two latents that were read.

        Returns:
            n reads, in order.

        Raises:
            InputError: a memory of another model, cues of another shape, less than two images, or another `through`.
        """
        require_tensor("cue_a", cue_a)
        require_tensor("cue_b", cue_b)
        cue_a, cue_b = cue_a.to(self.device), cue_b.to(self.device)
        if (cue_a.shape, cue_a.dtype) != (cue_b.shape, cue_b.dtype) or cue_a.ndim < 3:
            shapes = f"{described(cue_a)} and {described(cue_b)}"
            raise InputError(f"cue_a, cue_b: expected images of one shape and dtype, found {shapes}")
        value, cues = self._value_and_cues(memory, torch.stack([cue_a, cue_b], -4))
        ends = self._read(value, self._locate(value, cues))
        fraction = torch.linspace(0, 1, n, device=self.device, dtype=self.dtype)
        keys = _between(ends.keys, fraction)
        if through == "keys":
            read = self._read(value, keys)
        else:
            latents = _between(ends.latents, fraction)
            read = Read(latents, self._decode(latents), keys)
        return self._like(memory, read)

    @checked
    def sample_memory(
        self, images: Count, memories: Samples | None = None, seed: Seed = 0, temperature: Temperature = 1.0
    ) -> Memory:
        """Sample memories M ~ p(M), of episodes that nobody has seen; the random state is left unchanged.

        Args:
            images: T, number of images that a memory holds; other blocks are zero.
            memories: B; None samples a single memory.
            seed: seed of the draws.
            temperature: deviation of every scalar, relative to the prior's. Below 1, samples are more typical and less
                various.

        Returns:
            One memory, or B memories.

        Raises:
            InputError: a flat prior of memories, a model without blocks, or more images than blocks.
        """
        size = math.prod(self.addressing.layout.block_shape)
        none = torch.zeros(memories or 1, 0, size, dtype=self.dtype, device=self.device)
        value = self._extended(none, images, seed, temperature)
        return Memory(value[0] if memories is None else value, self.fingerprint)

    @checked
    def extend(
        self,
        memory: Memory,
        images: Count = 1,
        samples: Samples | None = None,
        seed: Seed = 0,
        temperature: Temperature = 1.0,
    ) -> Memory:
        """Sample what follows in a memory, M' ~ p(M' | M), block after block; the random state is left unchanged.

        Args:
            memory: memory of the first images.
            images: number of images to add; each is sampled given all those before it.
            samples: number of independent continuations of a single memory; None continues each memory once.
            seed: seed of the draws.
            temperature: see `sample_memory`.

        Returns:
            The memory with the sampled blocks behind its own, or `samples` such memories.

        Raises:
            InputError: a flat prior of memories, a memory of another model, without enough free blocks, or not written
                in order; or several continuations of several memories.
        """
        blocks = self._held(memory)  # (B, n, S)
        if samples is not None and self._batch(memory):
            raise InputError(f"samples: expected None for {len(blocks)} memories, found {samples}")
        value = self._extended(blocks.expand(samples or -1, -1, -1), images, seed, temperature)
        single = samples is None and not self._batch(memory)
        return Memory(value[0] if single else value, self.fingerprint)

    def _extended(self, blocks: Tensor, images: int, seed: int, temperature: float) -> Tensor:
        """Memories (B, C_m, H_m, W_m) of blocks (B, n, S), with those of `images` more images."""
        layout, written = self.addressing.layout, blocks.shape[1]
        prior = self.model.memory_prior(images)
        if not isinstance(prior, BlockMemory):
            raise InputError("memory prior: expected one that can be sampled, such as autoregressive, found flat")
        free = (layout.blocks - written) // layout.reads
        if images > free:
            where = f"a memory with {written} of its {layout.blocks} blocks written"
            raise InputError(f"images: expected at most {free} more for {where}, found {images}")
        with own_randomness(seed, self.device):
            return memory_of(prior.prior.extend(blocks, images * layout.reads, temperature), layout)

    def _held(self, memory: Memory) -> Tensor:
        """Blocks of memories that are not zero, flat, (B, n, S)."""
        return held_blocks(self._value(memory).squeeze(1), self.addressing.layout)

    @checked
    def inspect(self, memory: Memory) -> Read:
        """Decode every block, in row-major order; with R reads, R consecutive blocks at a time.

        Blocks that no image was written to are decoded too.

        Returns:
            ceil(blocks / R) reads.

        Raises:
            InputError: a memory of another model, or a model without blocks.
        """
        return self._read_first(memory, self.addressing.layout.blocks)

    @checked
    def read_written(self, memory: Memory) -> Read:
        """Decode the blocks that are not zero: of a memory that was written or sampled in order, all of its images.

        Raises:
            InputError: a memory of another model, a model without blocks, or memories with different numbers of written
                blocks, or with none.
        """
        written = self._held(memory).shape[1]
        if not written:
            raise InputError("memory: expected one with written blocks, found none")
        return self._read_first(memory, written)

    def _read_first(self, memory: Memory, blocks: int) -> Read:
        """Decode the first blocks, R at a time; the last R are filled up with the first ones."""
        layout = self.addressing.layout
        keys = self.addressing.key_grid(layout.rows, layout.columns)[:, 0]  # (N, 3)
        groups = -(-blocks // layout.reads)
        cells = torch.arange(groups * layout.reads).remainder(len(keys)).view(groups, layout.reads)
        keys = keys[cells]  # (groups, R, 3)
        return self.read(memory, keys.expand(*self._batch(memory), *keys.shape))

    @checked
    @torch.no_grad()
    def autoencode(self, images: Tensor, steps: Reads = 1) -> list[Decoded]:
        """Reconstruct images without the memory, x <- decode(mode of q(z | x)): a control for `recall`.

        A guide with q(z | x, M, y) is used without the learned correction for M and y.

        Args:
            images: (..., T, C, H, W).
            steps: number of reconstructions.

        Returns:
            Latents (..., T, D), the modes of q(z | x), and images after each step.

        Raises:
            InputError: images of another shape, or less than one step.
        """
        estimate = self.checked_images("images", images)
        results = []
        for _ in range(steps):
            latents = self.guide.latent_posterior(self.guide.encode(estimate)).mode
            estimate = self._decode(latents)
            results.append(Decoded(latents.view(*images.shape[:-3], -1), estimate.view_as(images)))
        return results

    @checked
    @torch.no_grad()
    def log_likelihood(self, images: Tensor, decoded: Decoded) -> Tensor:
        """ln p(x | z) in nats, (..., N), of images (..., N, C, H, W) given the latents of `decoded`.

        Raises:
            InputError: images of another shape than the decoded ones, or pixels that p(x | z) cannot have.
        """
        require_tensor("images", images)
        if images.shape != decoded.images.shape:
            raise InputError(f"images: expected {tuple(decoded.images.shape)}, found {tuple(images.shape)}")
        latents = decoded.latents
        require_tensor("decoded.latents", latents)
        if latents.shape[:-1] != images.shape[:-3] or not latents.isfinite().all():
            expected = f"finite numbers ({', '.join(map(str, (*images.shape[:-3], 'D')))})"
            raise InputError(f"decoded.latents: expected {expected}, found {described(latents)}")
        likelihood, values = self.model.image_likelihood(latents), images.to(self.device, self.dtype)
        if not likelihood.support.check(values).all():
            last = LIKELIHOODS[self.model.likelihood].levels - 1
            pixels = "0 or 1, as of `binarize`" if last == 1 else f"k / {last}, as ({last} * images).round() / {last}"
            raise InputError(f"images: expected pixels that p(x | z) can have, {pixels}, found {described(images)}")
        return likelihood.log_prob(values)

    def _note_shared(self, images: int) -> None:
        """Print a note, once, if a memory is asked to hold more images than its capacity."""
        if images > self.capacity and not self._noted:
            self._noted = True
            remark = f"{images} images share what one memory has for {self.capacity}, so that they mix"
            print(f"note: {remark}; inference.Collection takes as many memories as it needs", file=sys.stderr)

    def _key_posterior(self, value: Tensor, cues: Tensor) -> Distribution:
        return self.guide.key_posterior(self.guide.encode(cues), value)

    def _locate(self, value: Tensor, cues: Tensor) -> Tensor:
        return self._key_posterior(value, cues).mode  # (B, T, R, 3)

    def _recall(self, value: Tensor, cues: Tensor) -> Read:
        key = self._key_posterior(value, cues)
        latents = self.model.mean_read_prior(value, key).mean  # (B, T, D)
        return Read(latents, self._decode(latents), key.mode)

    def _read(self, value: Tensor, keys: Tensor) -> Read:
        latents = self.model.latent_prior(value, keys).mean  # (B, N, D)
        return Read(latents, self._decode(latents), keys)

    def _decode(self, latents: Tensor) -> Tensor:
        return self.model.image_likelihood(latents).mean  # (B, N, C, H, W)

    def _value(self, memory: Memory, name: str = "memory") -> Tensor:
        """Memories (B, 1, *memory_shape), checked to be of this model."""
        require_tensor(name, memory.value)
        shape, event = tuple(memory.value.shape), self.model.memory_shape
        if shape[-len(event) :] != event or len(shape) > len(event) + 1 or not memory.value.numel():
            raise InputError(f"{name}: expected memories of shape {event} of this model, found {shape}")
        self.require_author(name, memory.author)
        if not memory.value.is_floating_point() or not (memory.value.abs() <= _LARGEST).all():  # refuses NaN, too
            raise InputError(f"{name}: expected floats of at most {_LARGEST:g}, found {described(memory.value)}")
        return memory.value.to(self.device, self.dtype).reshape(-1, 1, *event)

    def require_author(self, name: str, author: str) -> None:
        """Raise InputError, which names what was written, unless `author` is the fingerprint of this model."""
        if author != self.fingerprint:
            raise InputError(
                f"{name}: expected one written by this model ({self.fingerprint[:12]}), "
                f"found one of another ({str(author)[:12] or 'unknown'})"
            )

    def _batch(self, memory: Memory) -> tuple[int, ...]:
        """(B,), or () for a single memory."""
        return tuple(memory.value.shape[: -len(self.model.memory_shape)])

    def _like(self, memory: Memory, record: Record) -> Record:
        """A record of tensors (B, ...); without the axis B if the memory is a single one."""
        if self._batch(memory):
            return record
        return replace(record, **{part.name: getattr(record, part.name).squeeze(0) for part in fields(record)})

    def _value_and_cues(self, memory: Memory, cues: Tensor) -> tuple[Tensor, Tensor]:
        value, episodes, batch = self._value(memory), self.checked_images("cues", cues), self._batch(memory)
        if cues.shape[:-4] != batch:
            expected = ", ".join(map(str, (*batch, "T", *self.image_shape)))
            raise InputError(f"cues: expected ({expected}) for this memory, found {tuple(cues.shape)}")
        return value, episodes

    def checked_images(self, name: str, images: Tensor) -> Tensor:
        """Episodes (B, T, C, H, W) of images (T, C, H, W) or (B, T, C, H, W), checked, on the model's device.

        Raises:
            InputError: images of another shape than the model's, or intensities outside [0, 1].
        """
        require_tensor(name, images)
        if images.ndim not in (4, 5) or tuple(images.shape[-3:]) != self.image_shape or not images.numel():
            expected = ", ".join(map(str, self.image_shape))
            raise InputError(f"{name}: expected (T, {expected}) or (B, T, {expected}), found {tuple(images.shape)}")
        low, high = images.aminmax() if images.is_floating_point() else (-1, 2)  # NaN where any is NaN
        if not (low >= 0 and high <= 1):
            raise InputError(f"{name}: expected intensities from 0 to 1, found {described(images)}")
        return images.to(self.device, self.dtype).view(-1, *images.shape[-4:])

    def _keys(self, memory: Memory, keys: Tensor) -> Tensor:
        """Keys (B, N, *key_shape), checked, on the model's device."""
        require_tensor("keys", keys)
        event, batch = self.model.key_shape, self._batch(memory)
        shape = tuple(keys.shape)
        if (shape[: len(batch)], shape[len(batch) + 1 :]) != (batch, event):
            expected = ", ".join(map(str, (*batch, "N", *event)))
            raise InputError(f"keys: expected ({expected}) for this memory, found {shape}")
        if not keys.numel() or not (keys.abs() <= _LARGEST).all():  # refuses NaN, too
            raise InputError(f"keys: expected numbers of at most {_LARGEST:g}, found others or none")
        return keys.to(self.device, self.dtype).reshape(-1, *keys.shape[len(batch) :])


def require_tensor(name: str, value: Tensor) -> None:
    """Raise InputError, which names the argument, unless torch computes with the tensor."""
    if value.dtype not in _DTYPES or value.is_meta or value.is_nested or value.layout != torch.strided:
        nested = ", nested" if value.is_nested else ""
        found = f"{value.dtype}, {value.layout}{nested}, on {value.device}".replace("torch.", "")
        raise InputError(f"{name}: expected a dense tensor of real numbers, found {found}")


def next_cue(cues: Tensor, missing: Tensor, images: Tensor) -> Tensor:
    """The next cue of iterative reading, (..., C, H, W): the read images, with known pixels put back.

    Nothing is put back in a cue without missing pixels.
    """
    known = ~missing & missing.flatten(-3).any(-1)[..., None, None, None]
    return torch.where(known, cues, images)


def filled(cues: Tensor, missing: Tensor) -> Tensor:
    """Cues (B, T, C, H, W), whose missing pixels (0) are set to the mean of the same cue's known pixels, if any."""
    known = (~missing).sum((-3, -2, -1), keepdim=True)
    return torch.where(missing, cues.sum((-3, -2, -1), keepdim=True) / known.clamp(min=1), cues)


def _between(ends: Tensor, fraction: Tensor) -> Tensor:
    """Linear interpolation (B, n, ...) between two ends (B, 2, ...), at fractions (n,) of the way."""
    fraction = fraction.view(-1, *(1,) * (ends.ndim - 2))
    return torch.lerp(ends[:, :1], ends[:, 1:], fraction)


def described(tensor: Tensor) -> str:
    """Type, shape and range of a tensor, for messages."""
    bounds = f" from {tensor.min():g} to {tensor.max():g}" if tensor.numel() and tensor.dtype != torch.bool else ""
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}{bounds}"
