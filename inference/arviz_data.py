"""The one place that knows ArviZ, whose interface changed between 0.x and 1.x; what is here works with both."""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import NDArray

with warnings.catch_warnings():
    warnings.simplefilter("ignore", FutureWarning)  # 0.23 announces 1.0, once a day
    import arviz as az


def rhat_and_ess(draws: NDArray[np.floating]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Rank-normalised split R-hat and bulk effective sample size (Vehtari et al. 2021) of every scalar of an event.

    Args:
        draws: (chains, draws, *event), 2 chains or more of 4 draws or more; with fewer ArviZ logs a warning.

    Returns:
        R-hat and effective sample size, (*event) each; NaN where there are too few draws, or they are all the same.
    """
    dataset = az.convert_to_dataset({"draws": np.asarray(draws, dtype=np.float64)})
    with np.errstate(invalid="ignore"):  # 0/0 where the draws are all the same
        return az.rhat(dataset)["draws"].to_numpy(), az.ess(dataset)["draws"].to_numpy()
