"""Parts of a run's configuration beside the pair: data and training, each checking itself."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from inference.objectives import OBJECTIVES
from inference.processes import processes_here
from kpp_pyro.config_part import ConfigPart, Count, Natural, NotNegative, Positive, flag, name_in
from kpp_pyro.data import DATASETS
from kpp_pyro.likelihoods.bernoulli import Binarization
from kpp_pyro.networks.shapes import require_image_shape

_MOST_WORKERS = 16


def spare_cores() -> int:
    """Cores for decoding of each process of this machine, beside the one that trains."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(_MOST_WORKERS, cores // processes_here() - 1))


class DataConfig(ConfigPart):
    """Images and episodes."""

    dataset: Annotated[str, name_in(DATASETS)] = "digits"
    """Data set. digits comes with scikit-learn, folder is your own pictures in --data-dir; the others are looked for in
    --data-dir, then downloaded. Sets the preset of the data set."""
    data_dir: Path = Path("data")
    """Folder of the data sets, in torchvision's layout (MNIST/raw, FashionMNIST/raw), OMNIGLOT/chardata.mat. With
    --dataset folder: a tree of pictures, train/ and test/ (validation/ if there is one, else a tenth of train/), in
    class folders or not."""
    image_size: Count = 28
    """Side of the images of --dataset folder, in pixels: pictures are scaled and cropped to it."""
    workers: Count = Field(default_factory=spare_cores)
    """Processes that decode the pictures of --dataset folder, of each process that trains."""
    episode_length: Count = 32
    """T, distinct images per episode."""
    classes_per_episode: Count | None = None
    """Draw the images of an episode from this many classes; all of them if None."""
    binarize: Binarization = "dynamic"
    """Training images: pixels drawn anew each time (dynamic), once with a fixed seed (static), or cut at 1/2."""
    test_binarize: Binarization = "static"
    """Validation and test images, likewise; dynamic pixels are the same in every pass over them."""
    augment: bool = False
    """Shift and rotate training images a little (up to 2 pixels and 10 degrees)."""

    @model_validator(mode="after")
    def _check_image_size(self) -> DataConfig:
        require_image_shape((1, self.image_size, self.image_size), flag("image_size"))
        return self


class TrainingConfig(ConfigPart):
    """Optimisation."""

    steps: Count = 2500
    """Optimiser steps in all; the learning rate falls to zero over them."""
    episodes_per_step: Count = 8
    """B, episodes per step; processes that train together share them out."""
    left_out: Natural = 0
    """Images of each training episode, beside its T, that are not written and are read from its memory nevertheless,
    by --semantic-reads."""
    objective: Annotated[str, name_in(OBJECTIVES)] = "trace"
    """trace (Trace_ELBO), mean_field (TraceMeanField_ELBO: analytic KLs), or of --particles draws for each image: iwae,
    dreg (iwae with doubly-reparametrised gradients), renyi (variational Renyi bound)."""
    particles: Count = 1
    """K, draws per image and step, of iwae, dreg and renyi."""
    renyi_alpha: Annotated[float, Field(allow_inf_nan=False)] = 0.5
    """Order of --objective renyi: 0 is iwae, towards 1 the ELBO."""
    capture: Literal["auto", "on", "off"] = "auto"
    """Capture a whole step as a CUDA graph and replay it: on one GPU, with --objective trace. auto does so where it can
    be done."""
    learning_rate: Positive = 2e-3
    """Adam's, after warm-up and before the cosine."""
    warmup_steps: Natural = 200
    """Steps of linear warm-up."""
    weight_decay: NotNegative = 0.0
    """Decoupled weight decay."""
    kl_key_start: NotNegative = 1.0
    """Weight of the key's KL until --kl-begin-step; a memory is ignored if its keys cost too much too early."""
    kl_latent_start: NotNegative = 0.1
    """Weight of the latent's KL until --kl-begin-step."""
    kl_begin_step: Natural = 0
    """Step at which these weights begin to grow."""
    kl_ramp_steps: Natural = 500
    """Steps in which they grow to 1."""
    kl_memory_weight: NotNegative = 1.0
    """Weight of a random memory's own KL in training: with 0 the objective is conditional on the memory that was
    written, with 1 it is the complete ELBO. Scores say both."""
    evaluate_every: Count = 250
    """Steps between evaluations on the validation set, each with a checkpoint and figures."""
