"""The registry of data sets, and `load_dataset`, which loads one by its name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from kpp_pyro.config_part import require_name
from kpp_pyro.data.images import ImageSplits
from kpp_pyro.errors import InputError


@dataclass(frozen=True)
class DataSource:
    """A registered data set.

    Attributes:
        load: from the folder of all data sets to the three splits; None for pictures that are decoded while training.
        downloads: whether `load` downloads missing files to that folder.
    """

    load: Callable[[Path], ImageSplits] | None
    downloads: bool = False


DATASETS: dict[str, DataSource] = {}
"""Data sets by name; each is registered by its own file, which `kpp_pyro/data/__init__.py` imports."""


def load_dataset(name: str, data_dir: Path | str) -> ImageSplits:
    """Load a data set from its folder below `data_dir`; missing files may be downloaded to it.

    Args:
        name: in `DATASETS`, of a data set that has a loader.
        data_dir: folder of all data sets.

    Raises:
        InputError: another name, or files that are missing or invalid.
    """
    try:
        require_name(name, [known for known, source in DATASETS.items() if source.load])
    except ValueError as error:
        raise InputError(f"--dataset: {error}") from error
    load = DATASETS[name].load
    assert load is not None
    return load(Path(data_dir))
