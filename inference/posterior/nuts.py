"""NUTS over the latents of one image given its memory: a check of the guide and of importance weights.

Requires a model called as `(episode, memory=None)` whose latent sites are all continuous.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.infer import MCMC, NUTS
from pyro.poutine.util import prune_subsample_sites
from torch import Tensor
from torch.distributions import biject_to

from inference.errors import DivergenceError
from inference.posterior.arviz_data import FEWEST_CHAINS, FEWEST_DRAWS, rhat_and_ess
from inference.tracing import PARTICLE_DIM, PLATE_NESTING, PyroProgram, concatenate, own_randomness, trace_pair, traced
from kpp_pyro.errors import InputError
from kpp_pyro.fast_pyro import unrecorded_parameters
from kpp_pyro.progress import show_progress

DRAWS_AT_ONCE = 1000  # bounds the memory in use where ln p(x, latents | M) of draws is computed


@dataclass(frozen=True)
class NutsResult:
    """Draws of p(latents | x, M), after the warm-up.

    Attributes:
        draws: draws at every latent site, (chains, draws, *event).
        log_joint: ln p(x, latents | M) of every draw in nats, (chains, draws), float64.
        divergences: number of divergent transitions of every chain, (chains,).
        acceptance: mean acceptance probability of every chain, to three digits, (chains,).
        step_size: step size of the leapfrog integrator after the warm-up, (chains,).
    """

    draws: dict[str, Tensor]
    log_joint: Tensor
    divergences: Tensor
    acceptance: Tensor
    step_size: Tensor


@dataclass(frozen=True)
class SiteConvergence:
    """Convergence of one site, by its worst scalar.

    Attributes:
        r_hat: largest rank-normalised split R-hat; above 1.01 the chains have not mixed.
        bulk_ess: smallest bulk effective sample size over all chains.

    Both are NaN if a scalar does not move in any chain.
    """

    r_hat: float
    bulk_ess: float


def sample_posterior(
    model: PyroProgram,
    guide: PyroProgram,
    image: Tensor,
    memory: Tensor,
    *,
    chains: int = 4,
    draws: int = 500,
    warmup: int = 500,
    target_acceptance: float = 0.8,
    max_tree_depth: int = 10,
    seed: int = 0,
    progress: bool = True,
) -> NutsResult:
    """Draw the latents of one image given its memory with NUTS (Hoffman & Gelman 2014), one chain after another.

    The chains start from independent draws of the guide. Parameters and the random state outside are left unchanged.
    Energies must be exact and reproducible: load the run in float32, or convert it to float64.

    With a memory of blocks, the density of a key is flat inside a block and drops steeply at its edges. Trajectories
    make no U-turn before an edge, so that most end there and count as divergent. The draws stay valid, but mix slowly,
    and a chain stays in the block where it started. R-hat does not reveal a block in which no chain started.

    Args:
        model: Pyro model; plates "episodes" at dim -2, "images" at dim -1, the observed site named "image".
        guide: its guide.
        image: (C, H, W).
        memory: (1, 1, C_m, H_m, W_m), a batch of one.
        chains: number of chains.
        draws: draws kept of each chain.
        warmup: discarded first draws of each chain, which adapt step size and mass matrix.
        target_acceptance: acceptance probability that the step size is adapted to; higher is slower, with fewer
            divergences where a density is smooth.
        max_tree_depth: most doublings of a trajectory; a draw takes less than 2^depth gradients.
        seed: seed of starts and chains.
        progress: whether to show a progress bar.

    Raises:
        InputError: an image or a memory of another shape, or a number out of range.
        DivergenceError: the log-joint is not finite where a chain starts.
    """
    plan = _Plan(chains, draws, warmup, target_acceptance, max_tree_depth)
    _check_shapes(image, memory)
    with own_randomness(seed, image.device):
        posterior = _Posterior.of(model, image.detach(), memory.detach())
        starts = posterior.starts(guide, chains)
        with show_progress(total=plan.total, unit="draw", disable=not progress) as bar:
            runs = [
                posterior.run(start, plan, _ChainDiagnostics(bar, f"{n}/{chains}")) for n, start in enumerate(starts, 1)
            ]
    return concatenate(runs)


def convergence(result: NutsResult) -> dict[str, SiteConvergence]:
    """Return R-hat and effective sample size of every site (Vehtari et al. 2021).

    Raises:
        InputError: fewer than 2 chains of 4 draws.
    """
    chains, draws = result.log_joint.shape
    if chains < FEWEST_CHAINS or draws < FEWEST_DRAWS:
        expected = f"at least {FEWEST_CHAINS} chains of {FEWEST_DRAWS} draws"
        raise InputError(f"convergence: expected {expected}, found {chains} of {draws}")
    found = {}
    for name, values in result.draws.items():
        r_hat, bulk_ess = rhat_and_ess(values.cpu().numpy())
        found[name] = SiteConvergence(float(r_hat.max()), float(bulk_ess.min()))
    return found


@dataclass(frozen=True)
class _Plan:
    chains: int
    draws: int
    warmup: int
    target_acceptance: float
    max_tree_depth: int

    def __post_init__(self) -> None:
        for name in ("chains", "draws", "warmup", "max_tree_depth"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}: expected at least 1, found {getattr(self, name)}")
        if not 0 < self.target_acceptance < 1:
            raise InputError(f"target_acceptance: expected between 0 and 1, found {self.target_acceptance}")

    @property
    def total(self) -> int:
        """Number of draws of all chains, with the warm-up."""
        return self.chains * (self.warmup + self.draws)


def _check_shapes(image: Tensor, memory: Tensor) -> None:
    if image.dim() != 3:
        raise InputError(f"image: expected one image (C, H, W), found shape {tuple(image.shape)}")
    if memory.dim() < 3 or memory.shape[:2] != (1, 1):
        raise InputError(f"memory: expected a batch of one, (1, 1, C_m, H_m, W_m), found shape {tuple(memory.shape)}")


class _ChainDiagnostics:
    """Pyro's hook after every draw: keeps NUTS' diagnostics, which NUTS drops after a run, and updates the bar."""

    def __init__(self, bar: Any, chain: str) -> None:
        self.bar, self.chain = bar, chain
        self.divergences, self.acceptance, self.step_size = 0, 0.0, 0.0

    def __call__(self, kernel: NUTS, draw: dict[str, Tensor], stage: str, index: int) -> None:
        """Update diagnostics and bar after a draw."""
        self.bar.set_description(f"NUTS chain {self.chain}, {stage.lower()}", refresh=False)
        self.bar.update()
        if stage == "Sample":
            self.divergences = len(kernel.diagnostics()["divergences"])
            self.acceptance, self.step_size = float(kernel.logging()["acc. prob"]), float(kernel.step_size)


@dataclass(frozen=True)
class _Posterior:
    """p(latents | x, M) of one image, up to a constant.

    Attributes:
        model: Pyro model.
        episode: (1, 1, C, H, W).
        memory: (1, 1, ...).
        priors: by latent site, its distribution under the model, for support and event shape.
    """

    model: PyroProgram
    episode: Tensor
    memory: Tensor
    priors: dict[str, Any]

    @staticmethod
    @torch.no_grad()
    def of(model: PyroProgram, image: Tensor, memory: Tensor) -> _Posterior:
        """Find the model's latent sites, and check the image's shape."""
        episode = image[None, None]
        trace = prune_subsample_sites(traced(model, episode, memory))
        nodes: dict[str, Any] = dict(trace.nodes)
        expected = tuple(nodes["image"]["fn"].event_shape)
        if image.shape != expected:
            raise InputError(f"image: expected shape {expected}, found {tuple(image.shape)}")
        return _Posterior(model, episode, memory, {name: nodes[name]["fn"] for name in trace.stochastic_nodes})

    @torch.no_grad()
    def starts(self, guide: PyroProgram, chains: int) -> list[dict[str, Tensor]]:
        """Draws of the guide (1, 1, *event) by site, in unconstrained space."""
        traces = trace_pair(self.model, guide, self.episode, self.memory, particles=chains)
        values = {name: traces.value(name) for name in self.priors}
        log_joint = self.log_joint(values)
        if not log_joint.isfinite().all():
            raise DivergenceError(f"ln p(x, latents | M) is not finite where a chain starts: {log_joint.tolist()} nats")
        free = {name: biject_to(prior.support).inv(values[name]) for name, prior in self.priors.items()}
        return [{name: value[chain] for name, value in free.items()} for chain in range(chains)]

    @torch.no_grad()
    def log_joint(self, values: dict[str, Tensor]) -> Tensor:
        """ln p(x, latents | M) in nats, (N,), of values (N, 1, 1, *event)."""
        with pyro.plate("particles", len(next(iter(values.values()))), dim=PARTICLE_DIM):
            trace = traced(poutine.condition(self.model, data=values), self.episode, self.memory)
        trace = prune_subsample_sites(trace)
        trace.compute_log_prob()
        nodes: list[Any] = [node for node in trace.nodes.values() if node["type"] == "sample"]
        return sum(node["log_prob"].double().sum((-2, -1)) for node in nodes)  # type: ignore[return-value]

    def run(self, start: dict[str, Tensor], plan: _Plan, diagnostics: _ChainDiagnostics) -> NutsResult:
        """Run one chain."""
        values = self._draw(start, plan, diagnostics)
        log_joint = torch.cat([self.log_joint(part) for part in _parts(values)])
        return NutsResult(
            {name: values[name].reshape(1, -1, *prior.event_shape) for name, prior in self.priors.items()},
            log_joint[None],
            torch.tensor([diagnostics.divergences]),
            torch.tensor([diagnostics.acceptance]),
            torch.tensor([diagnostics.step_size]),
        )

    @torch.enable_grad()
    def _draw(self, start: dict[str, Tensor], plan: _Plan, hook: Callable[..., None]) -> dict[str, Tensor]:
        """Draws (N, 1, 1, *event) by site; Pyro takes gradients of the sites only, and validates nothing meanwhile."""
        kernel = NUTS(
            self.model,
            max_plate_nesting=PLATE_NESTING,
            target_accept_prob=plan.target_acceptance,
            max_tree_depth=plan.max_tree_depth,
        )
        chain = MCMC(kernel, plan.draws, plan.warmup, initial_params=start, hook_fn=hook, disable_progbar=True)
        with unrecorded_parameters():
            chain.run(self.episode, self.memory)
        return chain.get_samples()


def _parts(values: dict[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """Split draws (N, ...) by site into chunks of `DRAWS_AT_ONCE`."""
    for parts in zip(*(value.split(DRAWS_AT_ONCE) for value in values.values()), strict=True):
        yield dict(zip(values, parts, strict=True))
