"""The episodes of a configuration: training, validation and test."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch

from inference.runs.config import Config
from inference.runs.config_parts import DataConfig
from inference.runs.rules import binarizations, is_binary
from kpp_pyro.config_part import require_value
from kpp_pyro.data import (
    DATASETS,
    USUAL_EPISODE_LENGTH,
    EpisodeSampler,
    EpisodeSet,
    FolderSampler,
    decode_pictures,
    find_pictures,
    load_dataset,
)
from kpp_pyro.data.folder import FolderSplits, PictureFiles
from kpp_pyro.data.images import ImageSplits, LabelledImages, Origin
from kpp_pyro.data.notes import note_flat, print_above_bars
from kpp_pyro.data.sampler import TrainingEpisodes
from kpp_pyro.errors import InputError

_SHORTEST = 2  # images of an episode, where T is left to the data


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
        config: names the data set and the episodes. Where it leaves T open, that is 32, or less where there
            are few images.
        device: holds the images.
        rank: number of this process; it gets its share of the training episodes, and all held-out ones.
        ranks: number of processes.

    Notes on stderr say if T is below 32, and if most images of a split are one flat colour.

    Raises:
        InputError: a data set that cannot be loaded, or has too few images for an episode.
    """
    splits = load_splits(config.data)
    training, *held_out = _pictures(config, splits) if isinstance(splits, FolderSplits) else _images(config, splits)
    config = _with_length(config, training, *held_out)
    train = _training_episodes(config, training, held_out[0].image_shape[0], device, rank, ranks)
    for images in held_out:
        note_flat(images.origin.name, images.images)
    validation, test = (_episode_set(config, images.to(device)) for images in held_out)
    return Episodes(train, validation, test)


def load_splits(data: DataConfig) -> FolderSplits | ImageSplits:
    """Find the pictures of a folder, or load another data set.

    Raises:
        InputError: a data set that cannot be loaded.
    """
    source = DATASETS[data.dataset]
    if source.load is None:
        return find_pictures(data.data_dir, data.test_share, data.dark_on_light)
    image_size = data.image_size if source.sizes or source.own else None
    return load_dataset(data.dataset, data.data_dir, image_size, data.test_share, data.dark_on_light)


def _pictures(config: Config, splits: FolderSplits) -> tuple[PictureFiles, LabelledImages, LabelledImages]:
    """Training pictures, and decoded validation and test pictures: grey for binary images, or if all are grey."""
    data, channels = config.data, 1 if is_binary(config) else splits.channels()
    validation, test = (
        decode_pictures(files, data.image_size, data.workers, channels=channels)
        for files in (splits.validation, splits.test)
    )
    return splits.train, validation, test


def _images(config: Config, splits: ImageSplits) -> tuple[LabelledImages, LabelledImages, LabelledImages]:
    """Training, validation and test images with their origin, grey for binary images."""
    named = {
        split: replace(getattr(splits, split), origin=Origin.of_split(split, splits.name))
        for split in ("train", "validation", "test")
    }
    if is_binary(config):
        if DATASETS[config.data.dataset].own and splits.train.image_shape[0] > 1:
            likelihood = f"--likelihood {config.program.likelihood}"
            print_above_bars(f"note: {splits.name}: images in colour become grey, since {likelihood} is of binary ones")
        named = {split: images.grey() for split, images in named.items()}
    note_flat(named["train"].origin.name, named["train"].images)
    return named["train"], named["validation"], named["test"]


def _with_length(config: Config, training: LabelledImages | PictureFiles, *held_out: LabelledImages) -> Config:
    """The configuration with T: if it was left open, 32, or half of that, ..., so that each split has two episodes."""
    if config.data.episode_length is not None:
        return config
    for images in held_out:
        if len(images) < _SHORTEST:
            raise InputError(f"{images.origin.name}: expected {_SHORTEST} images or more, found {len(images)}")
    sizes = {training.origin.name: len(training)}
    sizes |= {images.origin.name: len(images) for images in held_out}
    smallest = min(sizes, key=sizes.__getitem__)
    length = USUAL_EPISODE_LENGTH
    while 2 * length > sizes[smallest] and length > _SHORTEST:
        length //= 2
    if length < USUAL_EPISODE_LENGTH:
        print_above_bars(f"note: episodes have {length} images: {smallest} has only {sizes[smallest]}")
    return config.replace(episode_length=length)


def _training_episodes(
    config: Config, training: LabelledImages | PictureFiles, channels: int, device: torch.device, rank: int, ranks: int
) -> TrainingEpisodes:
    data, (binarize, _) = config.data, binarizations(config)
    length = data.images_per_episode
    sampling = (length, binarize, config.seed, data.classes_per_episode, data.augment, rank, ranks)
    if isinstance(training, PictureFiles):
        return FolderSampler(training, data.image_size, data.workers, device, *sampling, channels=channels)
    return EpisodeSampler(training.to(device), *sampling)


def _episode_set(config: Config, images: LabelledImages) -> EpisodeSet:
    data, (_, binarize) = config.data, binarizations(config)
    return EpisodeSet(images, data.images_per_episode, binarize, config.seed, data.classes_per_episode)
