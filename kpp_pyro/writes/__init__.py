"""Writes, registered by the name in a configuration: from the encodings of an episode to a memory of blocks.

To add a write, register it in a file of this folder and import the file below.
"""

import kpp_pyro.writes.allocate_by_content
import kpp_pyro.writes.blocks
import kpp_pyro.writes.feed_forward
from kpp_pyro.writes.interface import WRITES, Encoding, Write, WriteParts

__all__ = ["WRITES", "Encoding", "Write", "WriteParts"]
