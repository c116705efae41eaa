"""The data and training parts of a run's configuration; each validates its own fields."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator
from pyro.infer import ELBO

from inference.objectives import OBJECTIVES, make_objective
from inference.processes import processes_here
from inference.runs.loggers import LOGGERS
from inference.threads import own_cores
from kpp_pyro.config_part import ConfigPart, flag, name_in
from kpp_pyro.data import DATASETS, USUAL_EPISODE_LENGTH
from kpp_pyro.likelihoods.bernoulli import Binarization
from kpp_pyro.networks.shapes import require_image_shape
from kpp_pyro.schema import Count, Natural, NotNegative, Positive

Weight = Annotated[NotNegative, Field(le=1000)]
_MOST_WORKERS = 16


def spare_cores() -> int:
    """Decoding processes for each training process of this machine: one core less than its share, at most 16."""
    return max(1, min(_MOST_WORKERS, len(own_cores()) // processes_here() - 1))


class DataConfig(ConfigPart):
    """Images and episodes."""

    dataset: Annotated[str, name_in(DATASETS)] = "digits"
    """Data set. digits comes with scikit-learn; folder is your own pictures in --data-dir, array your own NumPy file;
    the others are read from --data-dir, and most are downloaded to it if missing (docs/datasets.md). Selects the data
    set's preset."""
    data_dir: Path = Path("data")
    """Folder of the data sets: MNIST/raw and FashionMNIST/raw as torchvision keeps them, OMNIGLOT/chardata.mat,
    cifar-10-batches-bin, ... (docs/datasets.md). With --dataset array: the .npy or .npz file. With --dataset folder:
    pictures with or without class folders, or the same in train/ and test/, and optionally in validation/. Transparent
    pixels become white, or black below light pictures. --data is another spelling."""
    test_share: Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)] | None = None
    """Share of the images of --dataset folder or array to hold out for the test, if they have no test images. None: a
    fifth of up to 320 images, then 64, and a tenth of more than 640, at most 10,000."""
    dark_on_light: bool = False
    """Invert the images of --dataset folder or array. Strokes should be light, on a dark background."""
    image_size: Annotated[Count, Field(le=1024)] = 28
    """Side of the square images of --dataset folder or array, in pixels: a multiple of 4 from 16 to 64. Images are
    scaled and cropped to it. For celeba: 32 or 64."""
    workers: Annotated[Count, Field(le=1024)] = Field(default_factory=spare_cores)
    """Processes that decode the pictures of --dataset folder, per training process."""
    episode_length: Annotated[Count, Field(le=10**6)] | None = None
    """T, distinct images per episode: all are written to one memory. None: 32; with --dataset folder or array, 16, 8, 4
    or 2 where there are too few images for two such episodes of each split."""
    classes_per_episode: Annotated[Count, Field(le=10**6)] | None = None
    """Number of classes that the images of an episode are drawn from. None: all classes."""
    binarize: Binarization = "dynamic"
    """Binarization of training images: pixels drawn anew each time (dynamic), drawn once with a fixed seed (static), or
    cut at 1/2 (threshold). For likelihoods of binary pixels; images in colour become grey first."""
    test_binarize: Binarization = "static"
    """Binarization of validation and test images. With dynamic, their pixels are the same in every pass."""
    augment: bool = False
    """Shift and rotate training images at random, by up to 2 pixels and 10 degrees. With --classes-per-episode, the
    images of an episode move together, and each by up to a quarter as much besides."""

    @property
    def images_per_episode(self) -> int:
        """T; the most that it can become as long as it is left to the data."""
        return self.episode_length or USUAL_EPISODE_LENGTH

    @model_validator(mode="after")
    def _check_image_size(self) -> DataConfig:
        require_image_shape((1, self.image_size, self.image_size), flag("image_size"))
        return self


class TrainingConfig(ConfigPart):
    """Optimisation."""

    steps: Annotated[Count, Field(le=10**9)] = 2500
    """Optimiser steps of the whole run. The learning rate falls to zero over them."""
    episodes_per_step: Annotated[Count, Field(le=10**5)] = 8
    """B, episodes per optimiser step, divided among the processes of torchrun."""
    objective: Annotated[str, name_in(OBJECTIVES)] = "trace"
    """Bound to maximise. The ELBO: trace (Trace_ELBO) or mean_field (TraceMeanField_ELBO, with analytic KLs). Bounds of
    --particles draws per image: iwae, dreg (iwae with doubly-reparametrised gradients), renyi (variational Renyi)."""
    particles: Annotated[Count, Field(le=10**5)] = 1
    """K, draws per image in each step. For --objective iwae, dreg and renyi."""
    renyi_alpha: Annotated[float, Field(allow_inf_nan=False)] = 0.5
    """Order of the bound of --objective renyi: 0 is iwae, and towards 1 it becomes the ELBO."""
    capture: Literal["auto", "on", "off"] = "auto"
    """Capture a whole step as a CUDA graph and replay it, which is faster. Needs one GPU and --objective trace; auto
    captures where these are given. A recording that fails ends the run with an error."""
    learning_rate: Positive = 2e-3
    """Largest learning rate of Adam: reached after --warmup-steps, then falling to zero by a cosine."""
    warmup_steps: Annotated[Natural, Field(le=10**9)] = 200
    """Steps over which the learning rate grows linearly from zero."""
    weight_decay: NotNegative = 0.0
    """Decoupled weight decay of AdamW."""
    kl_key_start: Weight = 1.0
    """Weight of the key's KL until --kl-begin-step. Below 1, keys cost less early in training: otherwise a model may
    learn to ignore its memory, or its upper latent (--model two_layer_vae)."""
    kl_latent_start: Weight = 0.1
    """Weight of the latent's KL until --kl-begin-step."""
    kl_begin_step: Annotated[Natural, Field(le=10**9)] = 0
    """Step at which the KL weights of key and latent begin to grow."""
    kl_ramp_steps: Annotated[Natural, Field(le=10**9)] = 500
    """Steps over which the KL weights of key and latent grow linearly to 1."""
    kl_memory_start: Weight | None = None
    """Weight of a random memory's own KL until --kl-begin-step, from which it goes to --kl-memory-weight as those of
    key and latent go to 1. None: --kl-memory-weight from the start."""
    kl_memory_weight: Weight = 1.0
    """Weight of a random memory's own KL in training. 0: the objective is conditional on the written memory. 1: it is
    the complete ELBO. Scores report both."""
    bypass_weight: Weight = 0.0
    """Weight, in the training loss only, of -ln p(x | encoding): of an autoencoder that bypasses the memory. Contents
    then hold an image before the memory returns them well. Bounds and scores do not have it."""
    start_from: Path | None = None
    """Run whose best parameters to start from, wherever names and shapes agree; new parts start as usual. So a
    trained run learns --encoder-steps, another objective or another data set. None: all parameters start as usual."""
    evaluate_every: Annotated[Count, Field(le=10**9)] = 250
    """Steps between evaluations on the validation set. Each also writes a checkpoint and figures."""
    patience: Annotated[Count, Field(le=10**9)] | None = None
    """Evaluations in a row without a better validation bound after which training ends. None: it takes all --steps. The
    learning rate falls to zero over --steps all the same: a run that ends early lacks the last steps, of small
    learning rates, which usually raise the bound."""
    logger: Annotated[str, name_in(LOGGERS)] = "tensorboard"
    """Viewer to record metrics, figures and configuration for, in addition to the files of the run folder. wandb and
    mlflow are extras of this package. A resumed run adds its new steps to the record: a viewer that was not recorded
    for before lacks the earlier ones."""

    def bound(self, particles: int) -> ELBO:
        """The objective, of K = `particles` draws of each image."""
        alpha = self.renyi_alpha if OBJECTIVES[self.objective].takes_alpha else 0.0
        return make_objective(self.objective, particles=particles, alpha=alpha, bypass_weight=self.bypass_weight)
