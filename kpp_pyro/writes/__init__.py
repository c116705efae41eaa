"""Writes that a configuration may name: how an episode's encodings become a memory of blocks."""

from __future__ import annotations

from kpp_pyro.writes.allocate_by_content import AllocateByContentWrite
from kpp_pyro.writes.blocks import AllocateWrite
from kpp_pyro.writes.feed_forward import FeedForwardWrite
from kpp_pyro.writes.interface import Write

WRITES: dict[str, type[Write]] = {
    "allocate": AllocateWrite,
    "allocate_by_content": AllocateByContentWrite,
    "feed_forward": FeedForwardWrite,
}
