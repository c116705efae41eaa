"""The two training steps that are compared: the Pyro program, and the same networks with the ELBO by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from inference.runs.build_trainer import build_trainer
from inference.runs.config import Config
from inference.runs.resolve import resolve
from inference.runs.trainer import Step, Trainer
from kpp_pyro.data import EpisodeSampler, LabelledImages
from models.build import build
from models.by_hand import elbo_by_hand
from models.pair import Pair

_SIDES = {"digits": 16, "mnist": 28}  # pixels
_NUM_IMAGES = {
    "digits": 1_300,
    "mnist": 54_000,
}  # of the training sets; a step's cost depends on this number, not on the images


def configuration(dataset: str, device: str, **changes: Any) -> Config:
    """The resolved configuration of a data set's presets and of some fields, by name."""
    return resolve(Config.preset(dataset, device=device, **changes))


def random_images(config: Config, num_images: int | None = None) -> LabelledImages:
    """Random grey images of a data set's shape; the time of a step does not depend on their content."""
    dataset = config.data.dataset
    shape = (num_images or _NUM_IMAGES[dataset], 1, _SIDES[dataset], _SIDES[dataset])
    pixels = torch.randint(256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return LabelledImages(pixels, torch.zeros(shape[0], dtype=torch.int64)).to(config.device)


def pyro_trainer(config: Config, images: LabelledImages) -> Trainer:
    """The trainer of a new pair, on some images."""
    data = config.data
    sampler = EpisodeSampler(images, data.images_per_episode, data.binarize, config.seed, augment=data.augment)
    return build_trainer(config, new_pair(config, images), sampler)


def new_pair(config: Config, images: LabelledImages) -> Pair:
    """A new pair of a configuration, for images of this shape."""
    return build(config, images.image_shape, torch.device(config.device))


def step_by_hand(config: Config, images: LabelledImages) -> Callable[[], object]:
    """A function that takes one step without Pyro: same networks, random draws, optimiser and plan."""
    trainer = pyro_trainer(config, images)
    model, guide, plan, episodes = trainer.pair.model, trainer.pair.guide, trainer.plan, trainer.episodes

    def loss(episode: torch.Tensor, kl_weights: Any) -> torch.Tensor:
        return -elbo_by_hand(model, guide, episode, kl_weights)  # type: ignore[arg-type]

    step = Step(loss, trainer.optimizer, episodes.render, plan.gradient_norm)
    stepper = trainer.new_stepper(step)
    number = 0

    def take_step() -> None:
        nonlocal number
        stepper(episodes.draw(plan.episodes_per_step), trainer.kl_weights(number), plan.learning_rate_at(number))
        if number % trainer.check_every == 0 and step.nonfinite_steps > 0:
            raise FloatingPointError("the loss is not finite")
        number += 1

    return take_step
