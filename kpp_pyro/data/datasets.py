"""The data sets by name. To add one, write its loader in a file of its own and add a line to `DATASETS`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from kpp_pyro.data.digits import load_digits
from kpp_pyro.data.images import ImageSplits
from kpp_pyro.data.mnist import load_fashion_mnist, load_mnist
from kpp_pyro.data.omniglot import load_omniglot
from kpp_pyro.errors import InputError

DATASETS: dict[str, Callable[[Path], ImageSplits]] = {
    "digits": load_digits,
    "mnist": load_mnist,
    "fashion_mnist": load_fashion_mnist,
    "omniglot": load_omniglot,
}


def load_dataset(name: str, data_dir: Path | str) -> ImageSplits:
    """Load a data set from its folder under `data_dir`, or download it there.

    Raises InputError for a name that is not in `DATASETS`, and for whatever the loader finds wrong.
    """
    if name not in DATASETS:
        raise InputError(f"--dataset: expected one of {', '.join(DATASETS)}, found {name!r}")
    return DATASETS[name](Path(data_dir))
