"""Image sizes that all network families support."""

from __future__ import annotations

from numbers import Integral

from kpp_pyro.errors import InputError

_SMALLEST, _LARGEST, _STEP = 16, 64, 4  # pixels
_MOST_CHANNELS = 64


def require_image_shape(image_shape: tuple[int, int, int], name: str = "image size") -> None:
    """Raise InputError, which starts with `name`, unless H and W of (C, H, W) are multiples of 4 from 16 to 64."""
    whole = isinstance(image_shape, tuple | list) and all(_is_whole(side) for side in image_shape)
    if not whole or len(image_shape) != 3 or not 1 <= image_shape[0] <= _MOST_CHANNELS:
        expected = f"three whole numbers (C, H, W), C from 1 to {_MOST_CHANNELS}"
        raise InputError(f"{name}: expected {expected}, found {image_shape!r:.100}")
    for side in image_shape[1:]:
        if side % _STEP or not _SMALLEST <= side <= _LARGEST:
            raise InputError(
                f"{name}: expected sides that are multiples of {_STEP} from {_SMALLEST} to {_LARGEST} pixels, "
                f"found {image_shape[1]}x{image_shape[2]} (height x width)"
            )


def _is_whole(side: object) -> bool:
    return isinstance(side, Integral) and not isinstance(side, bool)
