"""Writes that a configuration may name: how an episode's encodings become a memory of blocks.

A write is a file here, which registers it, and a line below, which imports the file.
"""

import kpp_pyro.writes.allocate_by_content
import kpp_pyro.writes.blocks
import kpp_pyro.writes.feed_forward
from kpp_pyro.writes.interface import WRITES, Encoding, Write, WriteParts

__all__ = ["WRITES", "Encoding", "Write", "WriteParts"]
