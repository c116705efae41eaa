"""Weighted draws as ArviZ data; the only module that uses ArviZ, and works with both ArviZ 0.x and 1.x."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from torch import Tensor

from inference.errors import DivergenceError
from inference.importance.estimator import WeightedDraws, WeightStream
from kpp_pyro.errors import InputError
from kpp_pyro.files.atomic import atomic_write

with warnings.catch_warnings():
    warnings.simplefilter("ignore", FutureWarning)  # 0.23 announces 1.0, once a day
    import arviz as az

ArvizData = Any  # az.InferenceData of ArviZ 0.x, xarray.DataTree of 1.x: data["posterior"]["key"] with either

KEY_COORDINATES = ("scale", "x", "y")
FEWEST_CHAINS, FEWEST_DRAWS = 2, 4  # of which R-hat is defined
_BELOW_ONE = 1 - 2**-53  # the largest float64 below one
_SAMPLE = ("chain", "draw")
_IN_NATS = {"log_joint", "log_proposal", "log_weight", "log_likelihood", "monte_carlo_error"}


def rhat_and_ess(draws: NDArray[np.floating]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Rank-normalised split R-hat and bulk effective sample size (Vehtari et al. 2021) of every scalar of an event.

    Args:
        draws: (chains, draws, *event).

    Returns:
        R-hat and effective sample size, (*event) each; both are NaN where they are not defined: with fewer than 2
        chains of 4 draws, and where no chain moves. (There, ArviZ returns the number of draws, or a rounding error.)
    """
    draws = np.asarray(draws, dtype=np.float64)
    chains, length, *event = draws.shape
    if chains < FEWEST_CHAINS or length < FEWEST_DRAWS:
        return np.full(event, np.nan), np.full(event, np.nan)
    dataset = az.convert_to_dataset({"draws": draws})
    with np.errstate(invalid="ignore", divide="ignore"):  # where all draws are equal
        r_hat, ess = az.rhat(dataset)["draws"].to_numpy(), az.ess(dataset)["draws"].to_numpy()
    moves = (draws != draws[:, :1]).any((0, 1))
    return np.where(moves, r_hat, np.nan), np.where(moves, ess, np.nan)


def posterior_data(
    weighted: WeightedDraws,
    episode: Tensor,
    *,
    images: int | None = None,
    chains: int = 4,
    draws: int | None = None,
    seed: int = 0,
) -> ArvizData:
    """Turn weighted draws of images' latents into ArviZ data.

    ArviZ expects equally weighted draws. The K draws of every image are therefore resampled by their importance
    weights, independently for each image (given M the images are independent), shuffled, and cut into chains. The
    groups:

    - `posterior`: every latent site, (chain, draw, image, *event); the event of a key is (read, coordinate).
    - `sample_stats`, (chain, draw, image): `log_joint` ln p(x, latents | M), `log_proposal` ln q(latents) and their
      difference `log_weight`, in nats; `particle`, the index among the K draws. The resampling has used the weights: do
      not apply them again.
    - `constant_data`, (image,): `log_likelihood` ln p-hat_K and its `monte_carlo_error` in nats, and the weights'
      `effective_sample_size` and `pareto_k`. This is not ArviZ's own group log_likelihood, which would be
      ln p(x | latents) of every draw; here the latents are integrated out.
    - `observed_data`, (image,): `ink`, the mean pixel (the share of ink in a binary image). Pixels are not included.

    The coordinates `episode` and `position` of an image are its indices in (B, T).

    The chains are not Markov chains: their R-hat is near 1 for any weights, and ArviZ counts a repeated draw as
    several. The quality of the draws is given in `constant_data`.

    Args:
        weighted: K draws of every image, (K, B, T).
        episode: the images, (B, T, C, H, W).
        images: number of first images to keep, in the order of (B, T); None for all.
        chains: number of chains.
        draws: draws in each chain; None for K / chains, rounded down.
        seed: seed of the resampling; the random state outside is left unchanged.

    Raises:
        InputError: shapes that do not match, or a number out of range.
        DivergenceError: an image's weights are NaN, infinite or all zero.
    """
    _check_shapes(weighted, episode)
    particles, length = len(weighted.log_joint), episode.shape[1]
    draws = particles // max(1, chains) if draws is None else draws
    _check_counts({"images": images, "chains": chains, "draws": draws})
    log_joint, log_proposal = (_flat(value, 1)[:, :images] for value in (weighted.log_joint, weighted.log_proposal))
    particle = resample(log_joint - log_proposal, chains * draws, seed).unflatten(0, (chains, draws))
    image = torch.arange(particle.shape[-1])  # (N,), beside (chains, draws, N)
    sites = {name: _flat(value, 1)[:, :images][particle, image] for name, value in weighted.values.items()}
    stats = {"log_joint": log_joint[particle, image], "log_proposal": log_proposal[particle, image]}
    stats |= {"log_weight": stats["log_joint"] - stats["log_proposal"], "particle": particle}
    observed = {"ink": _flat(episode.double().mean((-3, -2, -1)))[:images]}
    where = {"episode": image // length, "position": image % length}
    return _assemble(
        {
            "posterior": _dataset(sites, (*_SAMPLE, "image"), where),
            "sample_stats": _dataset(stats, (*_SAMPLE, "image"), where),
            "constant_data": _dataset(_estimates(log_joint - log_proposal), ("image",), where),
            "observed_data": _dataset(observed, ("image",), where),
        },
        {"particles": particles, "resampling": "systematic", "seed": seed},
    )


def save(data: ArvizData, path: Path) -> None:
    """Write ArviZ data to a netCDF file, by an atomic write.

    Raises:
        OutputError: the file cannot be written.
    """
    if not isinstance(data, xr.DataTree):
        groups = {name: data[name] for name in data.groups()}
        data = xr.DataTree.from_dict({"/": xr.Dataset(attrs=data.attrs), **groups})
    atomic_write(path, data.to_netcdf(engine="h5netcdf"))


def load(path: Path) -> ArvizData:
    """Read a file that `save` wrote into memory, also one of the other ArviZ version.

    Raises:
        InputError: the file is missing, or is not netCDF.
    """
    try:
        with xr.open_datatree(path, engine="h5netcdf") as tree:
            return _assemble({name: node.load().to_dataset() for name, node in tree.children.items()}, tree.attrs)
    except OSError as error:
        raise InputError(f"{path}: expected a netCDF file, found none: {error}") from error


def resample(log_weights: Tensor, draws: int, seed: int) -> Tensor:
    """Resample K weighted particles of each of N data to equal weights: systematic resampling, in random order.

    A particle of normalised weight w is drawn `draws` w times on average, and less than one time more or fewer.

    Args:
        log_weights: (K, N) in nats, normalised or not.
        draws: number of draws.
        seed: seed of the resampling; the random state outside is left unchanged.

    Returns:
        Indices of particles, (draws, N); the columns are independent.

    Raises:
        DivergenceError: a datum's weights are NaN, infinite or all zero.
    """
    log_weights = log_weights.detach().double().cpu().T  # (N, K)
    wrong = ~log_weights.logsumexp(-1).isfinite()
    if wrong.any():
        columns = wrong.nonzero().flatten().tolist()
        raise DivergenceError(f"importance weights: found NaN, infinite or all zero in columns {columns}")
    generator = torch.Generator().manual_seed(seed)
    start = torch.rand(len(log_weights), 1, dtype=torch.float64, generator=generator)
    order = torch.rand(len(log_weights), draws, dtype=torch.float64, generator=generator).argsort(-1)
    cumulative = log_weights.softmax(-1).cumsum(-1)
    comb = cumulative[:, -1:] * ((start + torch.arange(draws)) / draws).clamp(max=_BELOW_ONE)  # (N, draws)
    return torch.searchsorted(cumulative, comb, right=True).gather(-1, order).T


def _check_shapes(weighted: WeightedDraws, episode: Tensor) -> None:
    batch = tuple(episode.shape[:2])
    if weighted.log_joint.shape[1:] != batch:
        found = tuple(weighted.log_joint.shape)
        raise InputError(f"weighted: expected draws of every image, (K, {batch[0]}, {batch[1]}), found {found}")


def _check_counts(counts: Mapping[str, int | None]) -> None:
    for name, count in counts.items():
        if count is not None and count < 1:
            raise InputError(f"{name}: expected at least 1, found {count}")


def _flat(value: Tensor, axis: int = 0) -> Tensor:
    """Axes B and T, at `axis` and the next, flattened to one; on the CPU."""
    return value.detach().cpu().flatten(axis, axis + 1)


def _estimates(log_weights: Tensor) -> dict[str, Tensor]:
    """ln p-hat_K and diagnostics, (N,) each, from log-weights (K, N)."""
    weights = WeightStream(len(log_weights), tail=True)
    weights.add(log_weights)
    return {
        "log_likelihood": weights.log_mean(),
        "monte_carlo_error": weights.monte_carlo_error(),
        "effective_sample_size": weights.effective_sample_size(),
        "pareto_k": weights.pareto_k(),
    }


def _dataset(values: Mapping[str, Tensor], dims: Sequence[str], where: Mapping[str, Tensor]) -> xr.Dataset:
    """A group of values (*dims, *event), with the coordinates `where` (N,) of the images."""
    group = xr.Dataset(
        {name: ((*dims, *_event_dims(name, value.shape[len(dims) :])), _array(value)) for name, value in values.items()}
    )
    for name in _IN_NATS & group.keys():
        group[name].attrs["units"] = "nats"
    numbers = {str(name): np.arange(size) for name, size in group.sizes.items()}
    names = {"coordinate": list(KEY_COORDINATES)} if "coordinate" in group.sizes else {}
    positions = {name: ("image", _array(value)) for name, value in where.items()}
    return group.assign_coords({**numbers, **names, **positions})


def _event_dims(site: str, event_shape: Sequence[int]) -> list[str]:
    """Names of an event's axes: (read, coordinate) for a key of blocks, else ArviZ's default names."""
    if site == "key" and len(event_shape) == 2 and event_shape[-1] == len(KEY_COORDINATES):
        return ["read", "coordinate"]
    return [f"{site}_dim_{axis}" for axis in range(len(event_shape))]


def _array(value: Tensor) -> NDArray:
    """A NumPy array; half precision as float32, since NumPy has no bfloat16, and netCDF no float16."""
    value = value.detach().cpu()
    return (value.float() if value.dtype in (torch.bfloat16, torch.float16) else value).numpy()


def _assemble(groups: Mapping[str, xr.Dataset], attributes: Mapping[Any, Any] | None = None) -> ArvizData:
    """The groups in the container of the installed ArviZ."""
    if "InferenceData" in vars(az):  # 1.x also answers to the name, with a warning
        content: dict[str, Any] = {"attrs": dict(attributes or {}), **groups}
        return az.InferenceData(**content)
    return xr.DataTree.from_dict({"/": xr.Dataset(attrs=attributes), **groups})
