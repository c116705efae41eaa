"""Networks: plain modules that return tensors. The families and episode encoders that a configuration may name.

Each of these is a file here, which registers it, and a line below, which imports the file.
"""

import kpp_pyro.networks.attention
import kpp_pyro.networks.conv
import kpp_pyro.networks.mlp
import kpp_pyro.networks.temporal_shift
from kpp_pyro.networks.interface import EPISODE_ENCODERS, NETWORKS, EpisodeEncoder, ImageShape, NetworkFamily

__all__ = ["EPISODE_ENCODERS", "NETWORKS", "EpisodeEncoder", "ImageShape", "NetworkFamily"]
