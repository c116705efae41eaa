"""A trained memory at work: write images, recall them from damaged copies, generate, interpolate, complete.

    images = read_pictures("drawings", memories.image_shape)
    memory = memories.write(images)
    recalled = memories.recall(memory, cues, steps=5)[-1].images

A cue is read with all of q(y | x, M) at once: the mean of what its keys read gives the latent, the mean of p(z | M, y),
and this the pixel probabilities of p(x | z). Reading again with these as the cue is the paper's iterative reading,

    x <- decode(read(M, q(y | x, M)))                                            (Kanerva++, section 4)

with means in place of draws, so that a recall does not wander by chance (the mean over blocks of a `BlockKey`; of
normal keys, and of packed signs, what their mode reads). Where a damaged cue leaves open which block is its own, the
first read is a blend, and the next ones decide. Keys of the prior also read blocks that nothing was written to, which
decode to nobody's image; clean-up leaves them for one that was written.

Shapes: images, cues and masks are (T, C, H, W) of one memory, or (B, T, C, H, W) of B memories. The cues of a call are
an episode: an encoder with a temporal shift looks at neighbours too.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Literal, TypeVar

import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin as Distribution
from torch import Tensor

from inference.memory_types import CueingGuide, Decoded, Memory, Read, ReadableModel
from inference.tracing import site_mean, site_value
from kpp_pyro.errors import InputError
from kpp_pyro.memory.blocks import Addressing

Record = TypeVar("Record", Decoded, Read)


class TrainedMemory:
    """A trained model and its guide, as a memory to use; `inference.load(path).memory` is one of a run folder.

    Every method takes one memory and images (T, C, H, W), or B memories and images (B, T, C, H, W), and returns what
    belongs to each memory by itself. Images are intensities in [0, 1], on any device. The parameters are not to change
    any more: memories are known by them.

    Args:
        model: a memory model.
        guide: its guide.

    Raises:
        InputError: a model without a memory.
    """

    def __init__(self, model: ReadableModel, guide: CueingGuide) -> None:
        if not model.memory_shape or not all(model.memory_shape):
            raise InputError(f"{type(model).__name__}: expected a model with a memory, found one without")
        self.model, self.guide = model, guide
        self.image_shape = model.image_shape
        parameter = next(iter(model.state_dict().values()))
        self.device, self.dtype = parameter.device, parameter.dtype

    @property
    def addressing(self) -> Addressing:
        """How keys become places in the memory.

        Raises:
            InputError: the model's memory has no blocks.
        """
        addressing = self.model.addressing
        if addressing is None:
            raise InputError(f"{type(self.model).__name__}: expected a memory of blocks, found one without places")
        return addressing

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of any addressing and all parameters: it tells apart the memories of two models of equal sizes."""
        places = self.model.addressing and asdict(self.model.addressing)
        digest = hashlib.sha256(json.dumps(places).encode())
        for part in (self.model, self.guide):
            for name, value in sorted(part.state_dict().items()):
                digest.update(name.encode())
                digest.update(value.detach().cpu().reshape(-1).contiguous().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    def write(self, images: Tensor, seed: int = 0) -> Memory:
        """Write images into one memory for each episode; the random state stays as it is.

        Args:
            images: to write.
            seed: of the draw of a random memory.

        Raises:
            InputError: images of another size than the model's.
        """
        episodes = self._images("images", images)
        value = self.guide.write_memory(episodes, seed).squeeze(1)
        return Memory(value if images.ndim == 5 else value[0], self.fingerprint)

    def load(self, path: Path | str) -> Memory:
        """Read a memory that this model wrote and `Memory.save` saved.

        Raises:
            InputError: a missing, damaged or foreign file, or a memory of another model.
        """
        memory = Memory.load(path)
        self._value(memory, str(path))
        return Memory(memory.value.to(self.device), memory.author)

    @torch.no_grad()
    def locate(self, memory: Memory, cues: Tensor) -> Tensor:
        """Keys (..., T, *key_shape) of cues: the mode of q(y | x, M).

        Raises:
            InputError: a memory of another model, or cues of another size or number of episodes.
        """
        value, episodes = self._value_and_cues(memory, cues)
        keys = self._locate(value, episodes)
        return keys if self._batch(memory) else keys.squeeze(0)

    @torch.no_grad()
    def read(self, memory: Memory, keys: Tensor) -> Read:
        """Read a memory through keys (..., N, *key_shape).

        Raises:
            InputError: a memory of another model, or keys of another shape.
        """
        value = self._value(memory)
        return self._like(memory, self._read(value, self._keys(memory, keys)))

    def recall(self, memory: Memory, cues: Tensor, steps: int = 1) -> list[Read]:
        """Iterative reading: what is read after each of the steps, of which the first looks at the cues.

        Raises:
            InputError: a memory of another model, cues of another size or number of episodes, or no step.
        """
        return self.complete(memory, cues, torch.zeros_like(cues, dtype=torch.bool), steps)

    @torch.no_grad()
    def complete(self, memory: Memory, cues: Tensor, mask: Tensor, steps: int = 1) -> list[Read]:
        """Iterative reading of cues with missing pixels: after each read, the known pixels are put back.

        Args:
            memory: to read from.
            cues: images; what they hold where the mask is True does not matter.
            mask: bool, of the cues' shape, True where a pixel is missing. Without any, nothing is put back: all
                pixels are doubted alike, and this is `recall`.
            steps: reads.

        Returns:
            What was read at each step; its images differ from the cue in known pixels too.

        Raises:
            InputError: a memory of another model, cues or mask of another size or number, or no step.
        """
        if mask.shape != cues.shape or mask.dtype != torch.bool:
            raise InputError(f"mask: expected bool {tuple(cues.shape)}, found {_described(mask)}")
        if cues.is_floating_point():
            cues = cues.masked_fill(mask.to(cues.device), 0)  # NaN is a common sign of a missing pixel
        value, episodes = self._value_and_cues(memory, cues)
        if steps < 1:
            raise InputError(f"steps: expected at least 1, found {steps}")
        missing = mask.to(self.device).view_as(episodes)
        estimate, reads = _filled(episodes, missing), []
        for _ in range(steps):
            found = self._recall(value, estimate)
            reads.append(self._like(memory, found))
            estimate = next_cue(episodes, missing, found.images)
        return reads

    @torch.no_grad()
    def generate(self, memory: Memory, n: int, steps: int = 0) -> Read:
        """Draw n images of a memory: keys from the prior, latents from p(z | M, y); torch's global seed decides.

        Args:
            memory: to read from.
            n: images of each memory.
            steps: reads of iterated clean-up, each with the image before as its cue.

        Raises:
            InputError: a memory of another model, or less than one image.
        """
        value = self._value(memory)
        if n < 1 or steps < 0:
            raise InputError(f"generate: expected at least 1 image and 0 steps, found {n} and {steps}")
        trace = self.model.generate(value, n)
        drawn = Read(site_value(trace, "latent"), site_mean(trace, "image"), site_value(trace, "key"))
        drawn = self._like(memory, drawn)
        return self.recall(memory, drawn.images, steps)[-1] if steps else drawn

    @torch.no_grad()
    def interpolate(
        self, memory: Memory, cue_a: Tensor, cue_b: Tensor, n: int, through: Literal["keys", "latents"] = "keys"
    ) -> Read:
        """Walk in n even steps from one cue (..., C, H, W) to another, both ends included.

        Args:
            memory: to read from.
            cue_a: where to start.
            cue_b: where to end.
            n: images, at least 2.
            through: keys, so that each image is a read of the memory; or latents, from what one key found to what
                the other did.

        Raises:
            InputError: a memory of another model, cues of another size, or less than two images.
        """
        if n < 2:
            raise InputError(f"n: expected at least 2 images of an interpolation, found {n}")
        if cue_a.shape != cue_b.shape or cue_a.ndim < 3:
            shapes = f"{tuple(cue_a.shape)} and {tuple(cue_b.shape)}"
            raise InputError(f"cue_a, cue_b: expected images of the same shape, found {shapes}")
        value, cues = self._value_and_cues(memory, torch.stack([cue_a, cue_b], -4))
        ends = self._read(value, self._locate(value, cues))
        share = torch.linspace(0, 1, n, device=self.device, dtype=self.dtype)
        keys = _between(ends.keys, share)
        if through == "keys":
            found = self._read(value, keys)
        elif through == "latents":
            latents = _between(ends.latents, share)
            found = Read(latents, self._decode(latents), keys)
        else:
            raise InputError(f"through: expected 'keys' or 'latents', found {through!r}")
        return self._like(memory, found)

    def inspect(self, memory: Memory) -> Read:
        """What each block holds, decoded: block n of the memory, row by row; of R reads, every R blocks in order.

        Blocks that nothing was written to decode to something too.

        Raises:
            InputError: a memory of another model, or of one without blocks.
        """
        layout = self.addressing.layout
        keys = self.addressing.key_grid(layout.rows, layout.columns)[:, 0]  # (N, 3)
        groups = -(-len(keys) // layout.reads)  # the last one begins again where it is short of blocks
        cells = torch.arange(groups * layout.reads).remainder(len(keys)).view(groups, layout.reads)
        keys = keys[cells]  # (groups, R, 3)
        return self.read(memory, keys.expand(*self._batch(memory), *keys.shape))

    @torch.no_grad()
    def autoencode(self, images: Tensor, steps: int = 1) -> list[Decoded]:
        """What is left of `recall` without a memory: images (..., T, C, H, W) through q(z | x) and p(x | z) alone.

        A guide with q(z | x, M, y) has nothing to look at here: its learned correction by what is read is left out.

        Returns:
            What comes out after each step; the latents are modes of q(z | x): means, if it is Gaussian.

        Raises:
            InputError: images of another size, or no step.
        """
        estimate = self._images("images", images)
        if steps < 1:
            raise InputError(f"steps: expected at least 1, found {steps}")
        results = []
        for _ in range(steps):
            latents = self.guide.latent_posterior(self.guide.encode(estimate)).mode
            estimate = self._decode(latents)
            results.append(Decoded(latents.view(*images.shape[:-3], -1), estimate.view_as(images)))
        return results

    @torch.no_grad()
    def log_likelihood(self, images: Tensor, decoded: Decoded) -> Tensor:
        """ln p(x | z) of images (..., N, C, H, W) under what was decoded, (..., N) in nats.

        Raises:
            InputError: images of another shape than what was decoded.
        """
        if images.shape != decoded.images.shape:
            raise InputError(f"images: expected {tuple(decoded.images.shape)}, found {tuple(images.shape)}")
        return self.model.image_likelihood(decoded.latents).log_prob(images.to(self.device, self.dtype))

    def _key_posterior(self, value: Tensor, cues: Tensor) -> Distribution:
        return self.guide.recall_posterior(self.guide.encode(cues), value)

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
        """Memories (B, 1, ...) of this model."""
        shape, event = tuple(memory.value.shape), self.model.memory_shape
        if shape[-len(event) :] != event or len(shape) > len(event) + 1 or not memory.value.numel():
            raise InputError(f"{name}: expected memories of shape {event} of this model, found {shape}")
        if memory.author != self.fingerprint:
            raise InputError(
                f"{name}: expected one written by this model ({self.fingerprint[:12]}), "
                f"found one of another ({memory.author[:12] or 'unknown'})"
            )
        return memory.value.to(self.device).reshape(-1, 1, *event)

    def _batch(self, memory: Memory) -> tuple[int, ...]:
        """(B,), or () of a single memory."""
        return tuple(memory.value.shape[: -len(self.model.memory_shape)])

    def _like(self, memory: Memory, record: Record) -> Record:
        """A record of tensors (B, ...), without B if the memory is a single one."""
        if self._batch(memory):
            return record
        return replace(record, **{part.name: getattr(record, part.name).squeeze(0) for part in fields(record)})

    def _value_and_cues(self, memory: Memory, cues: Tensor) -> tuple[Tensor, Tensor]:
        value, episodes, batch = self._value(memory), self._images("cues", cues), self._batch(memory)
        if cues.shape[:-4] != batch:
            expected = ", ".join(map(str, (*batch, "T", *self.image_shape)))
            raise InputError(f"cues: expected ({expected}) for this memory, found {tuple(cues.shape)}")
        return value, episodes

    def _images(self, name: str, images: Tensor) -> Tensor:
        """Episodes (B, T, C, H, W) on the model's device."""
        if not isinstance(images, Tensor):
            raise InputError(f"{name}: expected a torch tensor, found {type(images).__name__}")
        if images.ndim not in (4, 5) or tuple(images.shape[-3:]) != self.image_shape or not images.numel():
            expected = ", ".join(map(str, self.image_shape))
            raise InputError(f"{name}: expected (T, {expected}) or (B, T, {expected}), found {tuple(images.shape)}")
        if not images.is_floating_point() or not ((images >= 0) & (images <= 1)).all():  # NaN is neither
            raise InputError(f"{name}: expected intensities from 0 to 1, found {_described(images)}")
        return images.to(self.device, self.dtype).view(-1, *images.shape[-4:])

    def _keys(self, memory: Memory, keys: Tensor) -> Tensor:
        """Keys (B, N, *key_shape) on the model's device."""
        event, batch = self.model.key_shape, self._batch(memory)
        shape = tuple(keys.shape)
        if (shape[: len(batch)], shape[len(batch) + 1 :]) != (batch, event):
            expected = ", ".join(map(str, (*batch, "N", *event)))
            raise InputError(f"keys: expected ({expected}) for this memory, found {shape}")
        if not keys.numel() or not keys.isfinite().all():
            raise InputError("keys: expected finite numbers, found others or none")
        return keys.to(self.device, self.dtype).reshape(-1, *keys.shape[len(batch) :])


def next_cue(cues: Tensor, missing: Tensor, images: Tensor) -> Tensor:
    """What is looked at next, all (..., C, H, W): what was read, with known pixels put back in cues that miss some."""
    known = ~missing & missing.flatten(-3).any(-1)[..., None, None, None]
    return torch.where(known, cues, images)


def _filled(cues: Tensor, missing: Tensor) -> Tensor:
    """Cues (B, T, C, H, W) with missing pixels, which are 0, at the mean of those that their own cue has, if any."""
    known = (~missing).sum((-3, -2, -1), keepdim=True)
    return torch.where(missing, cues.sum((-3, -2, -1), keepdim=True) / known.clamp(min=1), cues)


def _between(ends: Tensor, share: Tensor) -> Tensor:
    """Points (B, n, ...) between two ends (B, 2, ...), at shares (n,) of the way."""
    share = share.view(-1, *(1,) * (ends.ndim - 2))
    return torch.lerp(ends[:, :1], ends[:, 1:], share)


def _described(tensor: Tensor) -> str:
    bounds = f" from {tensor.min():g} to {tensor.max():g}" if tensor.numel() and tensor.dtype != torch.bool else ""
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}{bounds}"
