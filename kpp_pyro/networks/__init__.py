"""Networks: PyTorch modules that return tensors. Families and episode encoders, registered by configuration names.

To add a family or an episode encoder, register it in a file of this folder and import the file below.
"""

import kpp_pyro.networks.attention
import kpp_pyro.networks.conv
import kpp_pyro.networks.mlp
import kpp_pyro.networks.patches
import kpp_pyro.networks.temporal_shift
from kpp_pyro.networks.interface import EPISODE_ENCODERS, NETWORKS, EpisodeEncoder, ImageShape, NetworkFamily

__all__ = ["EPISODE_ENCODERS", "NETWORKS", "EpisodeEncoder", "ImageShape", "NetworkFamily"]
