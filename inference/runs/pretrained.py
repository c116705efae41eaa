"""Pretrained runs that come with the project: a config.json and a file of parameters, weights.safetensors, each."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor

from inference.runs.load import Run, load, read_run
from inference.runs.resolve import resolve_device
from kpp_pyro.arguments import checked
from kpp_pyro.errors import InputError
from kpp_pyro.files.atomic import make_folder
from kpp_pyro.files.checkpoint import save_checkpoint
from kpp_pyro.files.run_folder import RunFolder, write_json, write_text
from kpp_pyro.files.tensors import TensorFile

PRETRAINED = Path(__file__).parents[2] / "experiments" / "pretrained"
UNPACKED = Path("runs") / "pretrained"
_CONFIG, _PARAMETERS = "config.json", "weights.safetensors"
_FILE = TensorFile("weights", "a file of parameters")
_ANYWHERE = {"data_dir": Path("data"), "device": "auto", "precision": "auto", "start_from": None}
_MATRICES = torch.bfloat16  # the precision of the networks, where the machine is fast at it


def pretrained_names() -> list[str]:
    """Names of the pretrained runs."""
    return sorted(path.parent.name for path in PRETRAINED.glob(f"*/{_PARAMETERS}"))


def unpack(name: str, parent: Path = UNPACKED) -> Path:
    """Unpack a pretrained run to the run folder `parent`/`name`; other files in that folder stay.

    Raises:
        InputError: an unknown name, or a folder that cannot be written to.
    """
    names = pretrained_names()
    if name not in names:
        raise InputError(f"--pretrained {name:.100}: expected one of {', '.join(names)}, found none of them")
    source, run = PRETRAINED / name, RunFolder(parent / name)
    if run.checkpoint.exists():
        raise InputError(f"{run.path}: expected a folder for the pretrained {name}, found another run in it")
    tensors, metadata = _FILE.load(source / _PARAMETERS)
    state = {name: tensor.float() for name, tensor in tensors.items()}
    make_folder(run.path)
    save_checkpoint(run.best, {"step": int(metadata["step"]), "pair": state})
    write_text(run.config, (source / _CONFIG).read_text())
    return run.path


def pack(path: Path, folder: Path, **changes: object) -> Path:
    """Write a run's best parameters and its configuration to a folder; matrices in bfloat16, the rest in float32.

    Args:
        path: run folder.
        folder: folder to write to; made if missing.
        changes: fields of the configuration to change, by name, such as `content_steps`.

    Returns:
        The file of parameters.

    Raises:
        InputError: no run, an invalid configuration, or a folder that cannot be written to.
    """
    run, config = read_run(path)
    config = config.replace(**{**_ANYWHERE, **changes})
    trained = load(path, "cpu", None, **changes)  # type: ignore[arg-type]  # changes are fields
    tensors = {name: _rounded(tensor) for name, tensor in trained.pair.state_dict().items()}
    if not {path.name for path in RunFolder(folder).path.glob("*")} <= {_CONFIG, _PARAMETERS}:
        raise InputError(f"{folder}: expected a new folder, or one of packed parameters, found other files in it")
    if RunFolder(folder).config.exists() and not (folder / _PARAMETERS).exists():
        raise InputError(f"{folder}: expected a new folder, or one of packed parameters, found another config.json")
    make_folder(folder)
    _FILE.save(folder / _PARAMETERS, tensors, step=str(trained.step))
    content = json.loads(run.config.read_text())
    plugins = [{**plugin, "plugin": Path(plugin["plugin"]).name} for plugin in content.get("plugins", ())]
    used = {"plugins": plugins} if plugins else {}  # by their names: paths are those of this machine
    write_json(folder / _CONFIG, {**content, "config": config.to_json(), **used})
    return folder / _PARAMETERS


def _rounded(tensor: Tensor) -> Tensor:
    return tensor.to(_MATRICES) if tensor.dim() > 1 else tensor.clone()  # a safetensors file cannot hold shared tensors


@checked
def load_pretrained(name: str, device: str | torch.device = "auto", data_dir: Path | str | None = None) -> Run:
    """Load a pretrained run, after unpacking it to runs/pretrained/NAME.

    Args:
        name: cifar10, mazes32, mnist, mnist_encoder_steps or omniglot, see `pretrained_names`.
        device: auto, cpu, cuda, ...
        data_dir: folder of the data sets; None: `data`.

    Raises:
        InputError: an unknown name, or a folder that cannot be written to.
    """
    resolve_device(str(device))  # before anything is written
    return load(unpack(name), device, data_dir)
