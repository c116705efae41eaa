"""The configuration of a run: complete in Python, from presets, from a file, and as the run folder keeps it.

Config()                                         the digits, with every default
Config.preset("mnist", write="feed_forward")     defaults < presets < what is given
Config.read("runs/mnist/config.json", steps=100) what a run was trained with, and a change
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from inference.objectives import OBJECTIVES
from inference.runs.presets import preset_of, read_yaml
from inference.runs.processes import processes_here
from inference.runs.rules import require_consistent
from kpp_pyro.config_part import ConfigPart, Count, Natural, NotNegative, Positive, did_you_mean, flag, name_in
from kpp_pyro.data import DATASETS
from kpp_pyro.errors import InputError
from kpp_pyro.likelihoods.bernoulli import Binarization
from kpp_pyro.networks.shapes import require_image_shape
from models.config import PairConfig

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


class Config(PairConfig):
    """The configuration of a run; `Config()` trains on the digits.

    Raises:
        InputError: a value that a field cannot hold, or parts that do not go together.
    """

    data: DataConfig = DataConfig()
    training: TrainingConfig = TrainingConfig()
    device: str = "auto"
    """auto (a GPU where there is one), cpu, cuda, cuda:1, ..."""

    @model_validator(mode="after")
    def _check_across_parts(self) -> Config:
        require_consistent(self)
        return self

    @classmethod
    def preset(cls, dataset: str | None = None, /, **given: Any) -> Self:
        """The defaults, the presets of the parts that are chosen over them, and what is given over these.

        Presets are the files `experiments/configs/presets/FIELD/NAME.yaml`: of the data set, the model, the write and
        the objective that are chosen. No two of them set the same field.

        Args:
            dataset: name of the data set; the digits if None.
            given: fields of any part by their names, as on the command line: `write="feed_forward"`, `steps=100`.

        Raises:
            InputError: a field that there is not, a value that it cannot hold, or parts that do not go together.
        """
        given = {**({} if dataset is None else {"dataset": dataset}), **given}
        return cls.from_flat({**preset_of({**cls.defaults(), **given}), **given})

    @classmethod
    def read(cls, path: Path | str, /, **given: Any) -> Self:
        """Read the config.json of a run, or a YAML file of fields by their names, and change what is given.

        Raises:
            InputError: no such file, or one of another kind.
        """
        path = Path(path)
        if path.suffix in (".yaml", ".yml"):
            with naming(path):
                return cls.preset(**{**read_yaml(path), **given})
        try:
            content = json.loads(path.read_text())["config"]
        except OSError as error:
            raise InputError(f"{path}: expected a configuration, found none ({error.strerror})") from error
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path}: expected the config.json of a run, found another file ({error!r})") from error
        return cls.from_json(content, path).replace(**given)

    @classmethod
    def from_json(cls, content: Any, source: Path | str) -> Self:
        """The configuration that `to_json` made.

        Raises:
            InputError: of this source, that it is not one of this version.
        """
        if not isinstance(content, dict):
            raise InputError(f"{source}: expected a configuration, found {content!r}")
        with naming(source):
            return cls(**content)

    def to_json(self) -> dict[str, Any]:
        """Every field, part by part, as plain data."""
        return self.model_dump(mode="json")

    @classmethod
    def from_flat(cls, values: dict[str, Any]) -> Self:
        """A configuration of fields by their names, whichever part has them; the others have their defaults."""
        places = _places(cls)
        unknown = next((name for name in values if name not in places), None)
        if unknown is not None:
            raise InputError(
                f"{flag(unknown)}: expected a field of the configuration, found none of that name"
                f"{did_you_mean(unknown, places)}"
            )
        parts: dict[str, Any] = {}
        for name, value in values.items():
            part = places[name]
            if part is None:
                parts[name] = value
            else:
                parts.setdefault(part, {})[name] = value
        return cls(**parts)

    @classmethod
    def defaults(cls) -> dict[str, Any]:
        """The default of every field by its name."""
        parts = {
            name: cls if part is None else cls.model_fields[part].annotation for name, part in _places(cls).items()
        }
        return {
            name: part.model_fields[name].get_default(call_default_factory=True)  # type: ignore[union-attr]
            for name, part in parts.items()
        }

    def flat(self) -> dict[str, Any]:
        """Every field by its name, whichever part has it."""
        return {
            name: getattr(self if part is None else getattr(self, part), name)
            for name, part in _places(type(self)).items()
        }

    def replace(self, **values: Any) -> Self:
        """The same configuration with other values of some fields, by their names; no preset is applied."""
        fields = self.flat()
        if "width" not in values and {"networks", "preset"} & values.keys():  # of the family's preset again
            del fields["width"], fields["depth"]
        return type(self).from_flat({**fields, **values})


class naming:  # noqa: N801, a context manager in the manner of contextlib's
    """Puts a file's name before the sentence of an InputError that is raised inside."""

    def __init__(self, source: Path | str) -> None:
        self.source = source

    def __enter__(self) -> None:
        """Nothing to do."""

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        """Name the file."""
        if isinstance(error, InputError):
            raise InputError(f"{self.source}: {error}") from error


def _places(cls: type[ConfigPart]) -> dict[str, str | None]:
    """The part that has each field, by the field's name; None of a field of the configuration itself."""
    places: dict[str, str | None] = {}
    for name, field in cls.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, ConfigPart):
            places |= dict.fromkeys(kind.model_fields, name)
        else:
            places[name] = None
    return places
