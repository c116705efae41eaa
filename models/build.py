"""Building a model/guide pair from a configuration."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from kpp_pyro.arguments import checked
from kpp_pyro.errors import InputError, reason
from kpp_pyro.networks.interface import ImageShape
from kpp_pyro.networks.precision import fast_precision
from kpp_pyro.networks.shapes import require_image_shape
from models.config import PairConfig
from models.pair import Pair
from models.parts import Parts
from models.registry import MODELS

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@checked
@torch.inference_mode(False)  # parameters made inside it could never be trained
def build(config: PairConfig, image_shape: ImageShape, device: torch.device | str = "cpu") -> Pair:
    """Build a model and its guide, with initial parameters drawn from the configuration's seed.

    The parameters are float32. The random state outside is left unchanged.

    Args:
        config: model, memory and networks; a run's `Config` is a `PairConfig`.
        image_shape: (C, H, W).
        device: device of the parameters.

    Returns:
        The pair, in training mode.

    Raises:
        InputError: no configuration, an image size that the networks cannot process, or no such device.
    """
    require_image_shape(image_shape)
    device = available_device(device)
    with torch.random.fork_rng(devices=[]), _float32_by_default():
        torch.manual_seed(config.seed)
        parts = Parts.of(config, image_shape, dtype_of(config.precision, device))
        pair: Pair = MODELS[config.program.model].build(parts).to(device)
        pair.model.likelihood = config.program.likelihood  # here, since every model has one
        return pair


@contextmanager
def _float32_by_default() -> Iterator[None]:
    """Torch makes float32 tensors inside this context, whatever the default dtype outside: networks do not name one."""
    outside = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(outside)


def available_device(device: torch.device | str, name: str = "device") -> torch.device:
    """The device of this name, which argument or flag `name` gives.

    Raises:
        InputError: this machine lacks it, or torch does not know it.
    """
    try:
        torch.empty(0, device=device)
        return torch.device(device)
    except (RuntimeError, AssertionError, TypeError, ImportError) as error:
        raise InputError(f"{name}: expected one of this machine, found {device!r} ({reason(error)})") from error


def dtype_of(precision: str, device: torch.device) -> torch.dtype:
    """The dtype of the networks; for `auto`, bfloat16 where the device computes it fast, else float32."""
    return fast_precision(device) if precision == "auto" else _DTYPES[precision]
