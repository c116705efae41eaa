"""The time that training waits for the pictures of a folder."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import torch
from PIL import Image

from experiments.shared.speed.timing import alternate, medians, ratio, spread
from experiments.shared.speed.workload import configuration, new_pair, random_images
from inference.runs.build_trainer import build_trainer
from inference.runs.config import Config
from inference.runs.trainer import Trainer
from kpp_pyro.data import Binarization, EpisodeSampler, LabelledImages
from kpp_pyro.data.folder import FolderSampler, PictureFiles
from kpp_pyro.progress import show_progress

_CALLS = 10  # steps in one timing
IN_MEMORY, DECODED = "images in memory", "pictures decoded"


def time_input(device: str, repeats: int, pictures: int, picture_size: int, workers: int) -> dict[str, Any]:
    """Time steps on JPEGs from a folder in turns with steps on images in memory.

    Args:
        device: device of the steps, which are those of the MNIST preset.
        repeats: timings of each source.
        pictures: number of JPEGs, written to a temporary folder; the system's cache holds them, so no disk is measured.
        picture_size: side of the JPEGs in pixels.
        workers: decoding processes.
    """
    config = configuration("mnist", device)
    images, on = random_images(config, pictures), torch.device(config.device)
    images_per_step = config.training.episodes_per_step * config.data.images_per_episode
    with tempfile.TemporaryDirectory() as folder, pyro.validation_enabled(False):
        sources = _sources(config, images, make_pictures(Path(folder), pictures, picture_size), workers)
        trainers = {
            name: TimedTrainer(build_trainer(config, new_pair(config, images), source))
            for name, source in sources.items()
        }
        seconds = alternate({name: timed.step for name, timed in trainers.items()}, repeats, _CALLS, on)
        for source in sources.values():
            source.close()
    return {
        "pictures": pictures,
        "picture_side": picture_size,
        "workers": workers,
        "cores": os.cpu_count(),
        "images_per_step": images_per_step,
        "milliseconds": medians(seconds),
        "ratios": {f"{DECODED} / {IN_MEMORY}": ratio(seconds, DECODED, IN_MEMORY)},
        "waited_milliseconds_per_step": {
            name: spread(timed.waits[-repeats * _CALLS :], 1e3) for name, timed in trainers.items()
        },
    }


class TimedTrainer:
    """A trainer that records how long each step waits for data.

    Args:
        trainer: takes the steps.

    Attributes:
        waits: seconds, one number per step.
    """

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer
        self.waits: list[float] = []

    def step(self) -> None:
        """Take a step."""
        before = self.trainer.waited_seconds
        self.trainer.train_step()
        self.waits.append(self.trainer.waited_seconds - before)


def _sources(config: Config, images: LabelledImages, files: PictureFiles, workers: int) -> dict[str, Any]:
    length, side, on = config.data.images_per_episode, images.image_shape[-1], images.images.device
    sampling: tuple[int, Binarization, int] = (length, "dynamic", config.seed)
    return {
        IN_MEMORY: EpisodeSampler(images, *sampling),
        DECODED: FolderSampler(files, side, workers, on, *sampling),
    }


def make_pictures(folder: Path, number: int, side: int) -> PictureFiles:
    """Write JPEGs of smooth noise; their files are as large as those of photographs."""
    generator = np.random.default_rng(0)
    names = [f"{index:06d}.jpg" for index in range(number)]
    for name in show_progress(names, "pictures", leave=False):
        coarse = Image.fromarray(generator.integers(0, 256, (side // 8, side // 8), dtype=np.uint8))
        coarse.resize((side, side), Image.Resampling.BICUBIC).save(folder / name, quality=90)
    return PictureFiles(folder, names, torch.zeros(number, dtype=torch.int64))
