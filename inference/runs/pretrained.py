"""Trained pairs that come with the project, one folder each: config.json and weights.safetensors."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor

from inference.runs.load import Run, load, read_run
from inference.runs.resolve import resolve
from kpp_pyro.errors import InputError
from kpp_pyro.files.atomic import writing
from kpp_pyro.files.checkpoint import load_checkpoint, save_checkpoint
from kpp_pyro.files.run_folder import RunFolder, write_json, write_text
from kpp_pyro.files.tensors import TensorFile

PRETRAINED = Path(__file__).parents[2] / "experiments" / "pretrained"
UNPACKED = Path("runs") / "pretrained"
_CONFIG, _WEIGHTS = "config.json", "weights.safetensors"
_FILE = TensorFile("weights", "a file of weights")
_ANYWHERE = {"data_dir": Path("data"), "device": "auto", "precision": "auto"}
_MATRICES = torch.bfloat16  # what networks multiply in anyway, where the machine is fast at it


def pretrained_names() -> list[str]:
    """What weights there are."""
    return sorted(path.parent.name for path in PRETRAINED.glob(f"*/{_WEIGHTS}"))


def unpack(name: str, parent: Path = UNPACKED) -> Path:
    """Make a run folder of weights that come with the project, `parent`/`name`, to be used as any other.

    What other scripts have added to the folder stays.

    Raises:
        InputError: no such weights, or a folder that cannot be written to.
    """
    names = pretrained_names()
    if name not in names:
        raise InputError(f"--pretrained {name}: expected one of {', '.join(names)}, found none of them")
    source, run = PRETRAINED / name, RunFolder(parent / name)
    tensors, metadata = _FILE.load(source / _WEIGHTS)
    state = {name: tensor.float() for name, tensor in tensors.items()}
    with writing(run.path):
        run.path.mkdir(parents=True, exist_ok=True)
        save_checkpoint(run.best, {"step": int(metadata["step"]), "pair": state})
        write_text(run.config, (source / _CONFIG).read_text())
    return run.path


def pack(path: Path, folder: Path, **changes: object) -> Path:
    """Write the best weights of a run to a folder, with its configuration; matrices in bfloat16, the rest in float32.

    Args:
        path: run folder.
        folder: to be made or filled anew.
        changes: fields of the configuration to change by name, such as `content_steps`.

    Returns:
        The file of weights.

    Raises:
        InputError: no run, a configuration that is not legal, or a folder that cannot be written to.
    """
    run, config = read_run(path)
    config = config.replace(**{**_ANYWHERE, **changes})
    resolve(config)
    state = load_checkpoint(run.best)
    tensors = {name: _rounded(tensor) for name, tensor in state["pair"].items()}
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    _FILE.save(folder / _WEIGHTS, tensors, step=str(state["step"]))
    content = json.loads(run.config.read_text())
    write_json(folder / _CONFIG, {**content, "config": config.to_json()})
    return folder / _WEIGHTS


def _rounded(tensor: Tensor) -> Tensor:
    return tensor.to(_MATRICES) if tensor.dim() > 1 else tensor.clone()  # a file holds what two parts share twice


def load_pretrained(name: str, device: str = "auto", data_dir: Path | str | None = None) -> Run:
    """Open a trained pair that comes with the project, from a run folder that it is unpacked to.

    Args:
        name: such as mnist or omniglot, see `pretrained_names`.
        device: auto, cpu, cuda, ...
        data_dir: folder of the data sets, if they are used.

    Raises:
        InputError: no such name, or a folder that cannot be written to.
    """
    return load(unpack(name), device, data_dir)
