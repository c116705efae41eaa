"""Errors of iterative reading from corrupted copies of written images, after each read, with controls."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from inference.importance.estimator import standard_error
from inference.tracing import combine
from inference.trained_memory import Decoded, TrainedMemory
from kpp_pyro.corruptions import Corrupted
from kpp_pyro.distances import Distance, psnr_db

_SHOWN_READS = (1, 2, 5, 10)
_DECIBELS = 10 / math.log(10)  # of a relative change, to first order


@dataclass(frozen=True)
class Errors:
    """Errors of estimated images after each of S steps.

    Attributes:
        distance: from the clean image, by `TrainedMemory.distance`, (S, B, T): the number of pixels whose mode is not
            the clean image's value; for grey levels, the squared error per dimension.
        nats: -ln p(x | z) of the clean image x, in nats, (S, B, T).
        found: bool, whether no other image of the episode is nearer to the estimate, (S, B, T).
    """

    distance: Tensor
    nats: Tensor
    found: Tensor


@dataclass(frozen=True)
class Denoising:
    """Errors of B x T cues, by method.

    Attributes:
        cue: distance of the cue itself, (B, T).
        recall: iterative reading.
        completion: iterative reading with known missing pixels; the same as `recall` where the corruption hides none.
        memoryless: the same networks without the memory, iterated as often, see `TrainedMemory.autoencode`.
        nearest: the written image nearest to the cue in the visible pixels, an oracle that keeps all images; one step.
            `distance`: of the nearest image. `nats`: of the read with the nearest image as the cue.
    """

    cue: Tensor
    recall: Errors
    completion: Errors
    memoryless: Errors
    nearest: Errors


@torch.no_grad()
def denoise(memories: TrainedMemory, images: Tensor, corrupted: Corrupted, steps: int) -> Denoising:
    """Write images (B, T, C, H, W), and recall them from corrupted copies of the same shape.

    Raises:
        InputError: see `TrainedMemory.recall`.
    """
    between = memories.distance.between
    memory = memories.write(images)
    recall = memories.recall(memory, corrupted.images, steps)
    hides = bool(corrupted.hidden.any())
    completion = memories.complete(memory, corrupted.images, corrupted.hidden, steps) if hides else recall
    nearest = _nearest(corrupted.images, images, ~corrupted.hidden)  # (B, T)
    clean = memories.recall(memory, images)[0]
    chosen = combine([clean], lambda values: _chosen(values[0], nearest))
    nats = -memories.log_likelihood(images, chosen)
    return Denoising(
        between(corrupted.images, images),
        _errors(memories, images, recall),
        _errors(memories, images, completion),
        _errors(memories, images, memories.autoencode(corrupted.images, steps)),
        Errors(between(_chosen(images, nearest), images)[None], nats[None], _own(nearest)[None]),
    )


def summarize_cue(cue: Tensor, distance: Distance) -> dict[str, float]:
    """Mean distance of the cues, from distances (N,); for squared errors, its PSNR too."""
    mean = cue.double().mean().item()
    summary = {f"cue_{distance.field}": mean}
    return summary if distance.binary else {**summary, "cue_psnr_db": psnr_db(mean)}


def summarize_errors(errors: Errors, distance: Distance) -> dict[str, list[float]]:
    """Means and standard errors over the images after each step, from `Errors` (S, N).

    Squared errors are given as PSNR too: that of the mean squared error over the images, with the standard error that
    the delta method gives, 10 / ln 10 times the relative error of the mean. Standard errors treat images as
    independent, although those of an episode share a memory.
    """
    named = {distance.field: errors.distance, "nats_per_image": errors.nats, "found_share": errors.found}
    summary = {}
    for name, values in named.items():
        summary[name] = values.double().mean(1).tolist()
        summary[f"{name}_standard_error"] = [standard_error(step.double()) for step in values]
    if not distance.binary:
        means, deviations = summary[distance.field], summary[f"{distance.field}_standard_error"]
        summary["psnr_db"] = [psnr_db(mean) for mean in means]
        summary["psnr_db_standard_error"] = [
            _DECIBELS * error / mean if mean else math.nan for mean, error in zip(means, deviations, strict=True)
        ]
    return summary


def compare_first_with_last(errors: Errors, distance: Distance) -> dict[str, Any]:
    """Paired differences of the last read minus the first, from `Errors` (S, N).

    Shares of images: `drifted`: found by the first read, not by the last. `rescued`: found by the last read, not by the
    first.
    """
    first, last = errors.found[0], errors.found[-1]
    change = (errors.distance[-1] - errors.distance[0]).double()
    nats = (errors.nats[-1] - errors.nats[0]).double()
    drifted, rescued = (first & ~last).double(), (~first & last).double()
    return {
        f"change_in_{distance.field}": change.mean().item(),
        f"change_in_{distance.name}_standard_error": standard_error(change),
        "change_in_nats_per_image": nats.mean().item(),
        "change_in_nats_standard_error": standard_error(nats),
        "drifted_share": drifted.mean().item(),
        "drifted_standard_error": standard_error(drifted),
        "rescued_share": rescued.mean().item(),
        "rescued_standard_error": standard_error(rescued),
    }


def shown_reads(steps: int) -> list[int]:
    """The reads, of 1 to `steps`, whose results tables and figures show: the first ones and the last."""
    return [step for step in _SHOWN_READS if step < steps] + [steps]


def of_images(parts: Sequence[tuple[Denoising, Tensor]]) -> Denoising:
    """Join batches, each with its `counted` (B, T), to errors (S, N) of the N counted images; `cue` is (N,)."""
    masks = [counted.cpu() for _, counted in parts]

    def join(values: Sequence[Tensor]) -> Tensor:
        return torch.cat([value.cpu()[..., mask] for value, mask in zip(values, masks, strict=True)], -1)

    return combine([part for part, _ in parts], join)


def _errors(memories: TrainedMemory, images: Tensor, results: Sequence[Decoded]) -> Errors:
    distance = memories.distance
    errors = torch.stack([distance.between(result.images, images) for result in results])
    nats = torch.stack([-memories.log_likelihood(images, result) for result in results])
    nearest = [_nearest(distance.compared(result.images), images) for result in results]
    return Errors(errors, nats, torch.stack([_own(index) for index in nearest]))


def _nearest(estimate: Tensor, images: Tensor, visible: Tensor | None = None) -> Tensor:
    """Index (B, T) of the episode's image nearest to each estimate (B, T, C, H, W); its own image in ties."""
    seen = torch.ones_like(estimate) if visible is None else visible.to(estimate)
    estimate, seen, candidates = estimate.flatten(2), seen.flatten(2), images.flatten(2)
    square = (seen * estimate.square()).sum(-1, keepdim=True)
    distance = square - 2 * (seen * estimate) @ candidates.mT + seen @ candidates.square().mT  # (B, T, T)
    own = torch.eye(images.shape[1], device=images.device)
    return (distance - 1e-3 * own).argmin(-1)


def _own(index: Tensor) -> Tensor:
    """Whether indices (B, T) are those of the estimates' own images, (B, T)."""
    return index == torch.arange(index.shape[1], device=index.device)


def _chosen(values: Tensor, index: Tensor) -> Tensor:
    """Values (B, T, ...) at indices (B, T) into the second axis."""
    return values[torch.arange(len(index), device=index.device)[:, None], index]
