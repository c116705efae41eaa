"""From a configuration to a model/guide pair."""

from __future__ import annotations

import torch

from kpp_pyro.networks.heads import fast_precision
from kpp_pyro.networks.interface import ImageShape
from kpp_pyro.networks.shapes import require_image_shape
from models.config import PairConfig
from models.pair import Pair
from models.parts import Parts
from models.registry import MODELS

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def build(config: PairConfig, image_shape: ImageShape, device: torch.device | str = "cpu") -> Pair:
    """Build a model and its guide, with parameters drawn from the configuration's seed.

    The random state outside stays as it is.

    Args:
        config: what to build; a `Config` of a run is one.
        image_shape: (C, H, W).
        device: where to put it.

    Raises:
        InputError: an image size that no network takes.
    """
    require_image_shape(image_shape)
    device = torch.device(device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        parts = Parts.of(config, image_shape, dtype_of(config.precision, device))
        return MODELS[config.program.model].build(parts).to(device)


def dtype_of(precision: str, device: torch.device) -> torch.dtype:
    """The type in which networks run: of `auto`, bfloat16 where the device is fast at it."""
    return fast_precision(device) if precision == "auto" else _DTYPES[precision]
