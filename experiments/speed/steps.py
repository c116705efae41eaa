"""What a training step costs, what Pyro costs of it, where the rest goes, and how near to the machine's peak it is."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from functools import partial
from typing import Any

import pyro
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from experiments.config import Config, replace_flat
from experiments.speed.contenders import new_program, pyro_trainer, random_images, step_by_hand
from experiments.speed.timing import Seconds, alternate, backward, leaf, leaves, medians, ratio, spread
from inference.training import Trainer
from kpp_pyro.memory import read

_CALLS = 5  # steps in one timing


def time_steps(config: Config, repeats: int) -> dict[str, Any]:
    """Time the program's step against the one by hand; on CUDA, both also captured."""
    images = random_images(config)
    device = torch.device(config.device)
    with pyro.validation_enabled(False):
        ways = _ways(config, images, "off", "")
        if device.type == "cuda":
            ways |= _ways(config, images, "on", " captured")
        seconds = alternate(ways, repeats, _CALLS, device)
    per_step = config.training.episodes_per_step * config.data.episode_length
    return {
        "images_per_step": per_step,
        "parameters": new_program(config, images).sizes()["parameters"],
        "milliseconds": medians(seconds),
        "images_per_second": {name: round(per_step / statistics.median(s)) for name, s in seconds.items()},
        "ratios": {
            f"pyro{suffix} / by hand{suffix}": ratio(seconds, f"pyro{suffix}", f"by hand{suffix}")
            for suffix in ("", " captured")
            if f"pyro{suffix}" in seconds
        },
    }


def _ways(config: Config, images: Any, capture: str, suffix: str) -> dict[str, Callable[[], object]]:
    config = replace_flat(config, {"capture": capture})
    return {
        f"pyro{suffix}": pyro_trainer(config, images).train_step,
        f"by hand{suffix}": step_by_hand(config, images),
    }


def time_parts(config: Config, repeats: int) -> dict[str, Any]:
    """Time the parts of an eager step by themselves, forwards and backwards, in turns with the whole.

    What the parts leave of the step by hand are draws and densities; what that leaves of the program's is Pyro.
    """
    config = replace_flat(config, {"capture": "off"})
    images, device = random_images(config), torch.device(config.device)
    trainer = pyro_trainer(config, images)
    trainer.train_step()  # gives the optimiser gradients and a state
    with pyro.validation_enabled(False):
        ways = {"pyro": pyro_trainer(config, images).train_step, "by hand": step_by_hand(config, images)}
        seconds = alternate({**ways, **_parts(config, trainer)}, repeats, _CALLS, device)
    middle = {name: 1e3 * statistics.median(values) for name, values in seconds.items()}
    whole, by_hand = middle.pop("pyro"), middle.pop("by hand")
    shares = {**middle, "draws and densities": by_hand - sum(middle.values()), "Pyro": whole - by_hand}
    return {"whole_milliseconds": round(whole, 3), "milliseconds": {n: round(v, 3) for n, v in shares.items()}}


def _parts(config: Config, trainer: Trainer) -> dict[str, Callable[[], object]]:
    """Data, networks, write and read, and the optimiser: each alone."""
    model: Any = trainer.model
    guide: Any = trainer.guide
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


def fraction_of_peak(config: Config, repeats: int) -> dict[str, Any]:
    """Operations of a step's matrix products and convolutions, a second, beside the most that this machine does."""
    images, device = random_images(config), torch.device(config.device)
    trainer = pyro_trainer(config, images)
    trainer.train_step()
    with FlopCounterMode(display=False) as counter:
        trainer.train_step()
    operations = counter.get_total_flops()
    products, convolutions = _peak_ways(torch.bfloat16 if config.precision == "bfloat16" else torch.float32, device)
    ways = {"step": trainer.train_step, **{name: way for name, (way, _) in (products | convolutions).items()}}
    seconds = alternate(ways, repeats, 1, device)
    peaks = {kind: _best(seconds, some) for kind, some in (("matrix product", products), ("convolution", convolutions))}
    reached = operations / statistics.median(seconds["step"])
    kind = "convolution" if config.network.networks == "conv" else "matrix product"
    return {
        "operations_per_step": operations,
        "gigaflops": round(reached / 1e9, 1),
        "peak_gigaflops": {name: round(value / 1e9, 1) for name, value in peaks.items()},
        "fraction_of_peak": round(reached / peaks[kind], 3),
        "peak": kind,
        "milliseconds": spread(seconds["step"], 1e3),
    }


PeakWays = dict[str, tuple[Callable[[], object], float]]


def _peak_ways(dtype: torch.dtype, device: torch.device) -> tuple[PeakWays, PeakWays]:
    """Matrix products and convolutions of several sizes, with their numbers of operations."""
    large = device.type == "cuda"
    products: PeakWays = {}
    for side in (2048, 4096, 8192) if large else (512, 1024, 2048):
        left, right = torch.randn(2, side, side, device=device).to(dtype)
        products[f"product {side}"] = partial(torch.matmul, left, right), 2.0 * side**3
    convolutions: PeakWays = {}
    for channels in (128, 256) if large else (32, 64):
        batch = 1024 if large else 128
        maps = torch.randn(batch, channels, 14, 14, device=device).to(dtype)
        kernel = torch.randn(channels, channels, 3, 3, device=device).to(dtype)
        operations = 2.0 * batch * channels**2 * 9 * 14 * 14
        convolutions[f"convolution {channels}"] = partial(F.conv2d, maps, kernel, padding=1), operations
    return products, convolutions


def _best(seconds: Seconds, ways: PeakWays) -> float:
    return max(operations / statistics.median(seconds[name]) for name, (_, operations) in ways.items())
