"""The episodes of a configuration: training, validation and test."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Literal

import torch

from inference.runs.config import Config, naming
from inference.runs.rules import binarizations, is_binary
from kpp_pyro.config_part import require_value
from kpp_pyro.data import (
    DATASETS,
    EpisodeSampler,
    EpisodeSet,
    FolderSampler,
    decode_pictures,
    find_pictures,
    load_dataset,
)
from kpp_pyro.data.images import ImageSplits, LabelledImages, Origin
from kpp_pyro.data.notes import note_flat
from kpp_pyro.data.sampler import TrainingEpisodes


@dataclass(frozen=True)
class Episodes:
    """Episodes of the three splits, on the device.

    Attributes:
        train: draws training episodes.
        validation: held-out episodes that choose the checkpoint.
        test: held-out episodes for results.
    """

    train: TrainingEpisodes
    validation: EpisodeSet
    test: EpisodeSet

    def of(self, split: str) -> EpisodeSet:
        """The held-out episodes of a split, "test" or "validation".

        Raises:
            InputError: another name.
        """
        splits = {"test": self.test, "validation": self.validation}
        require_value("split", split, Literal["test", "validation"])
        return splits[split]


def build_episodes(config: Config, device: torch.device, rank: int = 0, ranks: int = 1) -> Episodes:
    """Load the data set, and put its images on the device; training pictures of a folder are decoded when drawn.

    Args:
        config: names the data set and the episodes.
        device: holds the images.
        rank: number of this process; it gets its share of the training episodes, and all held-out ones.
        ranks: number of processes.

    A note on stderr says if most images of a split are one flat colour.

    Raises:
        InputError: a data set that cannot be loaded, or has too few images for an episode.
    """
    data = config.data
    length = data.episode_length + config.training.left_out
    binarize, _ = binarizations(config)
    sampling = (length, binarize, config.seed, data.classes_per_episode, data.augment, rank, ranks)
    train: TrainingEpisodes
    source = DATASETS[data.dataset]
    if source.load is None:
        pictures = find_pictures(data.data_dir)
        channels = 1 if is_binary(config) else pictures.channels()
        with _naming_left_out(config):
            train = FolderSampler(pictures.train, data.image_size, data.workers, device, *sampling, channels=channels)
        held_out = [
            decode_pictures(files, data.image_size, data.workers, channels=channels)
            for files in (pictures.validation, pictures.test)
        ]
    else:
        splits = load_dataset(data.dataset, data.data_dir, data.image_size if source.sizes else None)
        training, *held_out = (_named(splits, split) for split in ("train", "validation", "test"))
        if is_binary(config):
            training, *held_out = (images.grey() for images in (training, *held_out))
        note_flat(training.origin.name, training.images)
        with _naming_left_out(config):
            train = EpisodeSampler(training.to(device), *sampling)
    for images in held_out:
        note_flat(images.origin.name, images.images)
    validation, test = (_episode_set(config, images.to(device)) for images in held_out)
    return Episodes(train, validation, test)


def _named(splits: ImageSplits, split: str) -> LabelledImages:
    """The images of a split, with their origin."""
    name = {"train": "training"}.get(split, split)
    return replace(getattr(splits, split), origin=Origin(f"the {name} split of {splits.name}"))


def _episode_set(config: Config, images: LabelledImages) -> EpisodeSet:
    data = config.data
    _, binarize = binarizations(config)
    return EpisodeSet(images, data.episode_length, binarize, config.seed, data.classes_per_episode)


def _naming_left_out(config: Config) -> AbstractContextManager[None]:
    """Names --left-out in an InputError about the length of training episodes."""
    left_out = config.training.left_out
    if not left_out:
        return nullcontext()
    return naming(f"--left-out {left_out} with --episode-length {config.data.episode_length}")
