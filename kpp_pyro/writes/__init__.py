"""Writes: how an episode's encodings become a memory."""

from kpp_pyro.writes.allocate import AllocateWrite
from kpp_pyro.writes.allocate_by_content import AllocateByContentWrite
from kpp_pyro.writes.feed_forward import FeedForwardWrite
from kpp_pyro.writes.interface import Write

__all__ = ["AllocateByContentWrite", "AllocateWrite", "FeedForwardWrite", "Write"]
