"""Whether training on a folder of pictures waits for them."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import torch
from PIL import Image
from tqdm import tqdm

from experiments.build import build_trainer
from experiments.speed.contenders import configuration, new_program, random_images
from experiments.speed.timing import alternate, medians, ratio
from kpp_pyro.data import EpisodeSampler
from kpp_pyro.data.folder import FolderSampler, PictureFiles

_CALLS = 10  # steps in one timing


def time_input(device: str, repeats: int, pictures: int, picture_size: int, workers: int) -> dict[str, Any]:
    """Time steps on JPEGs from a folder in turns with steps on the same number of images in memory.

    Args:
        device: of the steps, which are those of the MNIST preset.
        repeats: timings of each.
        pictures: number of JPEGs, made for it; they are in the system's cache, so that no disk is measured.
        picture_size: their side in pixels.
        workers: decoding processes.
    """
    config = configuration("mnist", device)
    images, on = random_images(config, pictures), torch.device(config.device)
    length, batch = config.data.episode_length, config.training.episodes_per_step
    with tempfile.TemporaryDirectory() as folder, pyro.validation_enabled(False):
        files = make_pictures(Path(folder), pictures, picture_size)
        side = images.image_shape[-1]
        on_disk = FolderSampler(files, side, workers, on, length, "dynamic", config.seed)
        in_memory = EpisodeSampler(images, length, "dynamic", config.seed)
        trainers = {
            name: build_trainer(config, new_program(config, images), episodes)
            for name, episodes in (("folder", on_disk), ("in memory", in_memory))
        }
        seconds = alternate({name: t.train_step for name, t in trainers.items()}, repeats, _CALLS, on)
        waited = trainers["folder"].waited_seconds / trainers["folder"].step
        on_disk.close()
    return {
        "pictures": pictures,
        "picture_side": picture_size,
        "workers": workers,
        "cores": os.cpu_count(),
        "images_per_step": batch * length,
        "milliseconds": medians(seconds),
        "ratios": {"folder / in memory": ratio(seconds, "folder", "in memory")},
        "waited_milliseconds_per_step": round(1e3 * waited, 3),
    }


def make_pictures(folder: Path, number: int, side: int) -> PictureFiles:
    """Write JPEGs of smooth noise, which are as large as photographs of their size."""
    generator = np.random.default_rng(0)
    names = [f"{index:06d}.jpg" for index in range(number)]
    for name in tqdm(names, "pictures", leave=False):
        coarse = Image.fromarray(generator.integers(0, 256, (side // 8, side // 8), dtype=np.uint8))
        coarse.resize((side, side), Image.Resampling.BICUBIC).save(folder / name, quality=90)
    return PictureFiles(folder, names, torch.zeros(number, dtype=torch.int64))
