"""Time of a training step, the overhead of Pyro, and the time of each part."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import pyro
import torch

from experiments.shared.speed.timing import alternate, backward, leaf, leaves, medians, ratio
from experiments.shared.speed.workload import new_pair, pyro_trainer, random_images, step_by_hand
from inference.runs.config import Config
from inference.runs.trainer import Trainer
from kpp_pyro.memory.blocks import read

_CALLS = 5  # steps in one timing


def time_steps(config: Config, repeats: int) -> dict[str, Any]:
    """Time the step of the Pyro program and the step by hand; on CUDA, both also captured."""
    images = random_images(config)
    device = torch.device(config.device)
    with pyro.validation_enabled(False):
        steps = _steps(config, images, "off", "")
        if device.type == "cuda":
            steps |= _steps(config, images, "on", " captured")
        seconds = alternate(steps, repeats, _CALLS, device)
    per_step = config.training.episodes_per_step * config.data.images_per_episode
    return {
        "images_per_step": per_step,
        "parameters": new_pair(config, images).sizes()["parameters"],
        "milliseconds": medians(seconds),
        "images_per_second": {name: round(per_step / statistics.median(s)) for name, s in seconds.items()},
        "ratios": {
            f"pyro{suffix} / by hand{suffix}": ratio(seconds, f"pyro{suffix}", f"by hand{suffix}")
            for suffix in ("", " captured")
            if f"pyro{suffix}" in seconds
        },
    }


def _steps(config: Config, images: Any, capture: str, suffix: str) -> dict[str, Callable[[], object]]:
    config = config.replace(capture=capture)
    return {
        f"pyro{suffix}": pyro_trainer(config, images).train_step,
        f"by hand{suffix}": step_by_hand(config, images),
    }


def time_parts(config: Config, repeats: int) -> dict[str, Any]:
    """Time the parts of an eager step independently, forwards and backwards, in turns with the whole step.

    Two parts are differences. Draws and densities: the step by hand minus the timed parts. Pyro: the step of the
    program minus the step by hand.
    """
    config = config.replace(capture="off")
    images, device = random_images(config), torch.device(config.device)
    trainer = pyro_trainer(config, images)
    trainer.train_step()  # creates gradients and the optimiser's state
    with pyro.validation_enabled(False):
        steps = {"pyro": pyro_trainer(config, images).train_step, "by hand": step_by_hand(config, images)}
        seconds = alternate({**steps, **_parts(config, trainer)}, repeats, _CALLS, device)
    median = {name: 1e3 * statistics.median(values) for name, values in seconds.items()}
    whole, by_hand = median.pop("pyro"), median.pop("by hand")
    parts = {**median, "draws and densities": by_hand - sum(median.values()), "Pyro": whole - by_hand}
    return {"whole_milliseconds": round(whole, 3), "milliseconds": {n: round(v, 3) for n, v in parts.items()}}


def _parts(config: Config, trainer: Trainer) -> dict[str, Callable[[], object]]:
    """Data, networks, write and read, and optimiser, as functions to time."""
    model: Any = trainer.pair.model
    guide: Any = trainer.pair.guide
    episodes, device = trainer.episodes, torch.device(config.device)
    episode = episodes.render(episodes.draw(config.training.episodes_per_step).to(device))
    with torch.no_grad():
        encoding = guide.encode(episode)
        memory = guide.write(encoding)
        key = guide.write.key_posterior(encoding).sample()
        blocks = read(memory, key, model.addressing)

    def data() -> None:
        episodes.render(episodes.draw(len(episode)).to(device, non_blocking=True))

    def networks() -> None:
        latent = leaf(encoding.latent_loc)
        outputs = [guide.encode(episode), model.reading(leaf(blocks)), model.decoder(latent)]
        backward(outputs[0].latent_loc, outputs[0].latent_scale, *outputs[1], outputs[2])

    def write_and_read() -> None:
        backward(read(guide.write(leaves(encoding)), key, model.addressing))

    step = trainer.stepper.step

    def optimiser() -> None:
        step.descend(torch.zeros((), device=device))

    return {"data": data, "networks": networks, "write and read": write_and_read, "optimiser": optimiser}
