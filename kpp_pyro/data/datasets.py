"""The registry of data sets: the file of each one registers it, and `kpp_pyro/data/__init__.py` imports the file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from kpp_pyro.config_part import require_name
from kpp_pyro.data.images import ImageSplits
from kpp_pyro.errors import InputError


@dataclass(frozen=True)
class DataSource:
    """A data set, as it is registered.

    Attributes:
        load: its three splits, of the folder of the data sets; None of a tree of pictures, which stays on disk.
        downloads: whether it is downloaded to that folder where it is not there.
    """

    load: Callable[[Path], ImageSplits] | None
    downloads: bool = False


DATASETS: dict[str, DataSource] = {}


def load_dataset(name: str, data_dir: Path | str) -> ImageSplits:
    """Load a data set from its folder under `data_dir`, or download it there.

    Raises:
        InputError: a name that is not in `DATASETS`, one of pictures that stay on disk, or what the loader finds wrong.
    """
    try:
        require_name(name, [known for known, source in DATASETS.items() if source.load])
    except ValueError as error:
        raise InputError(f"--dataset: {error}") from error
    load = DATASETS[name].load
    assert load is not None
    return load(Path(data_dir))
