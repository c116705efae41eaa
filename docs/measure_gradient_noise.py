"""Measure the signal-to-noise ratio of the gradients of IWAE and DReG, for `objectives.md`.

export OMP_NUM_THREADS=1 PYTHONPATH=.
python docs/measure_gradient_noise.py

Prints a Markdown table, and plots `docs/figures/gradient_snr.png`.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pyro
import pyro.distributions as dist
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from inference.objectives import make_objective
from inference.runs.build_trainer import build_trainer
from inference.runs.config import Config
from inference.runs.data import build_episodes
from kpp_pyro.fast_pyro import DiagonalNormal
from kpp_pyro.plots.figures import legend, logarithmic, save
from models.build import build

SEED = 0
PARTICLES = (1, 4, 16, 64, 256)
OBJECTIVES = ("iwae", "dreg")
TRAINING_STEPS = 400
SIZE, IMAGES = 20, 32  # of the toy: numbers in an image, images in its episode
FIGURE = Path(__file__).parent / "figures" / "gradient_snr.png"


@dataclass(frozen=True)
class Case:
    """A pair, an episode, and groups of the guide's parameters.

    Attributes:
        name: name in the table.
        model: Pyro model.
        guide: its guide.
        episode: (B, T, ...), data of the bound.
        groups: parameters whose ratios are averaged, by name.
        runs: gradients that are sampled.
    """

    name: str
    model: nn.Module
    guide: nn.Module
    episode: Tensor
    groups: Mapping[str, list[nn.Parameter]]
    runs: int


class ToyModel(nn.Module):
    """z_t ~ N(M, I), x_t ~ N(z_t, I), with a flat memory M."""

    def forward(self, episode: Tensor, memory: Tensor | None = None) -> None:
        """Run on an episode (B, T, D)."""
        one = torch.ones(SIZE)
        with pyro.plate("episodes", episode.shape[0], dim=-2):
            memory = pyro.sample("memory", dist.ImproperUniform(dist.constraints.real, (), (SIZE,)), obs=memory)
            with pyro.plate("images", episode.shape[1], dim=-1):
                latent = pyro.sample("latent", DiagonalNormal(memory, one))
                pyro.sample("image", DiagonalNormal(latent, one), obs=episode)


class ToyGuide(nn.Module):
    """M = W mean_t x_t, z_t ~ N(A x_t + F M + c, 2/3 I), with normal noise of scale 0.01 in W, A, F and c.

    Without the noise, A = F = I/2 and c = 0 are those of the exact posterior.
    As in Rainforth et al. (2018) and Tucker et al. (2019), but for the memory.
    """

    def __init__(self) -> None:
        super().__init__()
        self.write, self.slope, self.follow = (
            nn.Parameter(size * torch.eye(SIZE) + 0.01 * torch.randn(SIZE, SIZE)) for size in (0.8, 0.5, 0.5)
        )
        self.offset = nn.Parameter(0.01 * torch.randn(SIZE))
        self.log_scale = nn.Parameter(torch.tensor(0.5 * math.log(2 / 3)))

    def forward(self, episode: Tensor, memory: Tensor | None = None) -> None:
        """Run on an episode (B, T, D)."""
        with pyro.plate("episodes", episode.shape[0], dim=-2):
            memory = pyro.sample("memory", dist.Delta(episode.mean(1, keepdim=True) @ self.write, event_dim=1))
            with pyro.plate("images", episode.shape[1], dim=-1):
                loc = episode @ self.slope + memory @ self.follow + self.offset
                pyro.sample("latent", DiagonalNormal(loc, self.log_scale.exp().expand_as(loc)))


def toy() -> Case:
    """The conjugate toy, on data from its model."""
    torch.manual_seed(SEED)
    guide = ToyGuide()
    episode = torch.randn(1, 1, SIZE) + math.sqrt(2) * torch.randn(1, IMAGES, SIZE)
    posterior = [guide.slope, guide.follow, guide.offset, guide.log_scale]
    return Case("conjugate toy", ToyModel(), guide, episode, {"q(z)": posterior, "write": [guide.write]}, runs=400)


def trained() -> Case:
    """Kanerva++ with the write feed_forward, after 400 steps on the digits with KL weights of 1."""
    config = Config.preset(
        write="feed_forward",
        steps=TRAINING_STEPS,
        kl_key_start=1.0,
        kl_latent_start=1.0,
        precision="float32",
        seed=SEED,
    )
    device = torch.device("cpu")
    episodes = build_episodes(config, device).train
    pair = build(config, episodes.image_shape, device)
    trainer = build_trainer(config, pair, episodes)
    for _ in range(TRAINING_STEPS):
        result = trainer.train_step()
    print(f"trained for {TRAINING_STEPS} steps: loss {result.loss.item():.1f} nats per image")
    episode = episodes.render(episodes.draw(1))
    write = pair.guide.write
    posterior = [write.key_shift, *write.to_key_scale.parameters(), *write.to_content.parameters()]  # type: ignore[union-attr]
    own = {id(parameter) for parameter in posterior}
    rest = [parameter for parameter in pair.guide.parameters() if id(parameter) not in own]
    groups = {"q(y), q(z)": posterior, "encoder, write": rest}
    return Case("Kanerva++, digits", pair.model, pair.guide, episode, groups, runs=100)


def signal_to_noise(case: Case, name: str, particles: int) -> dict[str, float]:
    """|mean| / standard deviation of the gradient over runs, averaged over each group of parameters."""
    bound = make_objective(name, particles=particles)(case.model, case.guide)
    parameters = [parameter for group in case.groups.values() for parameter in group]
    sums = [torch.zeros(2, *parameter.shape, dtype=torch.float64) for parameter in parameters]
    torch.manual_seed(SEED)
    for _ in range(case.runs):
        gradients = torch.autograd.grad(bound(case.episode), parameters)
        for total, gradient in zip(sums, gradients, strict=True):
            total += torch.stack([gradient, gradient.double().square()])
    ratios, group_sums = {}, iter(sums)
    for group, members in case.groups.items():
        mean, square = (torch.cat([next(group_sums).reshape(2, -1) for _ in members], 1) / case.runs).unbind()
        deviation = ((square - mean.square()).clamp(min=0) * case.runs / (case.runs - 1)).sqrt()
        active = deviation > 0  # the gradient of a dead ReLU is always 0
        ratios[group] = (mean[active].abs() / deviation[active]).mean().item()
    return ratios


def measure(make: Callable[[], Case]) -> tuple[Case, dict[tuple[str, str, int], float]]:
    """A case and its ratios by group, objective and particles; prints them as rows of the table."""
    case, found = make(), {}
    for name in OBJECTIVES:
        seconds = {}
        for particles in PARTICLES:
            began = time.perf_counter()
            ratios = signal_to_noise(case, name, particles)
            seconds[particles] = (time.perf_counter() - began) / case.runs
            found |= {(group, name, particles): ratio for group, ratio in ratios.items()}
        for group in case.groups:
            row = " | ".join(f"{found[group, name, particles]:.3f}" for particles in PARTICLES)
            print(f"| {case.name} | {group} | {name} | {row} |")
        print(f"| {case.name} | ms a gradient | {name} | {' | '.join(f'{1000 * s:.1f}' for s in seconds.values())} |")
    return case, found


def plot(results: list[tuple[Case, dict[tuple[str, str, int], float]]]) -> None:
    """Plot the ratios against K: a panel per case, a colour per group, a line style per objective."""
    figure = Figure((8.4, 4.2), layout="constrained")
    for axis, (case, found) in zip(figure.subplots(1, len(results)), results, strict=True):
        for number, group in enumerate(case.groups):
            for name, style in zip(OBJECTIVES, (":", "-"), strict=True):
                ratios = [found[group, name, particles] for particles in PARTICLES]
                axis.plot(PARTICLES, ratios, f"C{number}{style}", marker=".", label=f"{group}, {name}")
        axis.axhline(
            math.sqrt(2 / math.pi / case.runs), color="grey", linewidth=0.8, label=f"pure noise, {case.runs} runs"
        )
        axis.set_xscale("log", base=4)
        logarithmic(axis, "y", found.values())
        axis.set_xticks(PARTICLES, [str(particles) for particles in PARTICLES])
        axis.set_xlabel("K")
        axis.set_title(case.name, fontsize=10)
        axis.grid(alpha=0.3)
        legend(axis, columns=2)
    figure.axes[0].set_ylabel("|mean| / standard deviation of the gradient")
    save(figure, FIGURE)


if __name__ == "__main__":
    if sys.argv[1:]:
        sys.exit(__doc__)
    torch.set_num_threads(1)
    pyro.enable_validation(False)
    print(f"| case | parameters of | objective | {' | '.join(f'K = {particles}' for particles in PARTICLES)} |")
    print(f"|---|---|---|{'---:|' * len(PARTICLES)}")
    plot([measure(make) for make in (toy, trained)])
