"""The registry of data sets, and `load_dataset`, which loads one by its name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import OutOfMemoryError

from kpp_pyro.arguments import checked
from kpp_pyro.config_part import require_name
from kpp_pyro.data.images import ImageSplits
from kpp_pyro.errors import InputError


@dataclass(frozen=True)
class DataSource:
    """A registered data set.

    Attributes:
        load: from the folder of all data sets to the three splits; with `sizes`, from the side of the images, too.
            None for pictures that are decoded while training.
        downloads: whether `load` downloads missing files to that folder.
        sizes: sides of square images, in pixels, that `load` offers, the default first; empty if it offers no choice.
        own: whether the images are the user's. `load` then takes all arguments of `load_dataset` but the name.
        like: name of the data set whose preset it takes too, if any.
        reads_data_dir: whether `load` reads files of the folder; if not, a given folder is refused.
    """

    load: Callable[..., ImageSplits] | None
    downloads: bool = False
    sizes: tuple[int, ...] = ()
    own: bool = False
    like: str | None = None
    reads_data_dir: bool = True


DATASETS: dict[str, DataSource] = {}
"""Data sets by name; each is registered by its own file, which `kpp_pyro/data/__init__.py` imports."""


@checked
def load_dataset(
    name: str,
    data_dir: Path | str,
    image_size: int | None = None,
    test_share: float | None = None,
    dark_on_light: bool = False,
) -> ImageSplits:
    """Load a data set from its folder below `data_dir`; missing files may be downloaded to it.

    Args:
        name: in `DATASETS`, of a data set that has a loader.
        data_dir: folder of all data sets; for images of one's own, their file.
        image_size: side of the images in pixels, for a data set that offers several; None for the only or usual one.
        test_share: share of one's own images to hold out for the test; None: see `held_out_count`.
        dark_on_light: invert one's own images.

    Raises:
        InputError: another name or size, or files that are missing or invalid.
    """
    try:
        require_name(name, [known for known, source in DATASETS.items() if source.load])
    except ValueError as error:
        raise InputError(f"--dataset: {error}") from error
    source = DATASETS[name]
    if source.own:
        return _loaded(name, Path(data_dir), image_size, test_share, dark_on_light)
    for flag, given in (("--test-share", test_share), ("--dark-on-light", dark_on_light)):
        if given not in (None, False):
            raise InputError(
                f"{flag}: expected none with --dataset {name}, whose images are not your own, found {given}"
            )
    if image_size is None:
        return _loaded(name, Path(data_dir))
    if image_size not in source.sizes:
        offered = f"one of {', '.join(map(str, source.sizes))}" if source.sizes else "none"
        raise InputError(f"--image-size: expected {offered} with --dataset {name}, found {image_size}")
    return _loaded(name, Path(data_dir), image_size)


def _loaded(name: str, *arguments: object) -> ImageSplits:
    """What the loader of a data set returns; it may be a plug-in's.

    Raises:
        InputError: that of the loader, another error in it, or a loader that returns something else.
    """
    load, expected = DATASETS[name].load, f"--dataset {name}: expected ImageSplits from its loader"
    assert load is not None
    try:
        splits = load(*arguments)
    except (InputError, MemoryError, OutOfMemoryError):
        raise
    except Exception as error:
        raise InputError(f"{expected}, found {type(error).__name__}: {error!s:.200}") from error
    if not isinstance(splits, ImageSplits):
        raise InputError(f"{expected}, found {splits!r:.100}")
    return splits
