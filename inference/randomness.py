"""The random state that guide and model draw from, on the device they run on."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


def random_state(device: torch.device) -> dict[str, Tensor]:
    """Return torch's random state, of the CPU and of the device."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def restore_random_state(state: dict[str, Tensor], device: torch.device) -> None:
    """Go on from a random state."""
    torch.set_rng_state(state["cpu"].cpu())
    if device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"].cpu(), device)


def seed_of(*numbers: int) -> int:
    """A seed for each tuple of numbers, such as a run's seed and a process or a batch of it."""
    digest = hashlib.blake2b(repr(numbers).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1  # below 2^63, as torch's generators take it


@contextmanager
def own_randomness(seed: int, device: torch.device) -> Iterator[None]:
    """Draw from a seed inside, and leave the random state outside untouched."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
