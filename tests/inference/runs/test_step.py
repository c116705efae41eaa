"""One optimiser step: clipping, steps that are skipped, no wait for the device, and the captured step on a GPU."""

from __future__ import annotations

import copy
import gc
from typing import Any

import pyro
import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import get_gradient_edge
from torch.utils._python_dispatch import TorchDispatchMode

from inference.objectives import make_objective
from inference.runs.build_trainer import build_trainer
from inference.runs.trainer import Step, Trainer, annealed
from kpp_pyro.data import EpisodeSampler, LabelledImages, warp
from kpp_pyro.posteriors import POSTERIORS
from kpp_pyro.priors import KEY_PRIORS
from kpp_pyro.writes import WRITES as ALL_WRITES
from models.build import build
from models.registry import MODELS
from tests.programs import IMAGE_SHAPE, WRITES, small_config

CUDA = torch.cuda.is_available()


class Quadratic(nn.Module):
    """Loss sum_i a_i w_i of episodes: its gradient is known."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(-1, 1, 12).view(3, 4))
        self.bias = nn.Parameter(torch.zeros(5))

    def forward(self, episode: torch.Tensor, kl_weights: object = None) -> torch.Tensor:
        return (self.weight.square().sum() + self.bias.sum()) * episode.sum()


def fused_adam(module: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(module.parameters(), lr=0.1, weight_decay=0.01, fused=True)


@pytest.mark.parametrize("largest", [1e-2, 1.0, 1e6])
def test_clipping_in_the_optimiser_is_clipping_before_it(largest: float) -> None:
    ours, theirs = Quadratic(), Quadratic()
    step = Step(ours, fused_adam(ours), lambda drawn: drawn, largest)
    optimizer = fused_adam(theirs)
    for number in range(1, 6):
        episode = torch.full((2, 3, 1, 2, 2), float(number))
        result = step(episode, {})
        loss = theirs(episode) / 6
        optimizer.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(theirs.parameters(), largest)
        optimizer.step()
        torch.testing.assert_close((result.loss, result.gradient_norm), (loss.detach(), norm))
    for own, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(own, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_step_that_is_not_finite_changes_nothing_and_is_counted(value: float) -> None:
    module = Quadratic()
    step = Step(module, fused_adam(module), lambda drawn: drawn, 1.0)
    step(torch.ones(1, 1, 1), {})
    before = copy.deepcopy((module.state_dict(), step.optimizer.state_dict()))
    step(torch.full((1, 1, 1), value), {})
    after = (module.state_dict(), step.optimizer.state_dict())
    assert step.nonfinite_steps == 1
    torch.testing.assert_close(after[0], before[0], rtol=0, atol=0)
    torch.testing.assert_close(after[1]["state"], before[1]["state"], rtol=0, atol=0)


def make_trainer(write: str = "allocate", device: str = "cpu", **changes: object) -> Trainer:
    changes = {"steps": 120, "warmup_steps": 10, "episodes_per_step": 2, "augment": True, **changes}
    keys = {} if changes.get("model") == "vae" else {"kl_key_start": 0.2}
    config = small_config(write, device=device, kl_begin_step=20, **keys, **changes)
    grey = (torch.rand(40, *IMAGE_SHAPE, generator=torch.Generator().manual_seed(1)) * 255).to(torch.uint8)
    images = LabelledImages(grey, torch.zeros(40, dtype=torch.long)).to(device)
    pair = build(config, IMAGE_SHAPE, torch.device(device))
    return build_trainer(config, pair, EpisodeSampler(images, 6, "dynamic", 0, augment=True))


class NoWaiting(TorchDispatchMode):
    """Refuses operations that make the host wait for the device, or whose result has a size that depends on data."""

    waiting = ("_local_scalar_dense", "item", "nonzero", "masked_select", "unique", "bincount", "multinomial", "equal")

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__.removesuffix("_dim").split(".")[0]
        assert not any(name.startswith(waiting) for waiting in self.waiting), f"{name} waits for the device"
        made = function(*args, **(kwargs or {}))
        assert name != "lift_fresh" or made.numel() <= 1, "a tensor is made from Python numbers and has to be copied"
        return made


WRITTEN = [{"write": write, "reads": 2, "temporal_shift": 0.25} for write in WRITES]  # those below read once
SWAPPED = [
    *({"model": model, "latent_size": 5} for model in MODELS if model != "kanerva_plus_plus"),
    *({"write": write} for write in ALL_WRITES),
    *({"write": "feed_forward", "key_prior": prior} for prior in KEY_PRIORS),
    *({"write": "feed_forward", "key_guide": guide, "latent_guide": guide} for guide in POSTERIORS),
    {"write": "feed_forward", "key_prior": "vamp", "key_guide": "flow", "latent_guide": "low_rank"},
    {"write": "feed_forward", "episode_encoder": "attention", "latent_context": "image_and_read"},
    {"write": "allocate", "bypass_weight": 0.5},
]
any_parts = pytest.mark.parametrize("parts", WRITTEN + SWAPPED, ids=lambda parts: ",".join(map(str, parts.values())))


@any_parts
def test_no_operation_of_a_step_waits_for_the_device(parts: dict[str, Any]) -> None:
    trainer = make_trainer(**parts)
    for _ in range(2):
        trainer.train_step()
    drawn, weights = trainer.episodes.draw(2), {"key": torch.tensor(0.3), "latent": torch.tensor(0.1)}
    with pyro.validation_enabled(False), NoWaiting():
        trainer.stepper.step(drawn, weights)


def test_what_waits_is_noticed() -> None:
    with pytest.raises(AssertionError, match="waits for the device"), NoWaiting():
        torch.ones(3).sum().item()
    with pytest.raises(AssertionError, match="has to be copied"), NoWaiting():
        torch.ones(3) * torch.tensor([1.0, 2.0, 3.0])


@any_parts
@pytest.mark.filterwarnings("ignore:.*Disabling autocast")
def test_the_loss_on_a_pretended_gpu_stays_on_it(parts: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors of shapes alone: no tensor of the CPU meets one of the GPU, and no value is asked for."""
    gpu = torch.device("cuda", 0)
    monkeypatch.setattr(nn.Module, "to", lambda module, *_: module)  # it is made there
    with FakeTensorMode(), pyro.validation_enabled(False):
        with gpu:
            config = small_config(**parts)
            pair = build(config, IMAGE_SHAPE, gpu)
            weights = {"key": torch.ones(()), "latent": torch.ones(())}
            episode = torch.ones(2, 6, *IMAGE_SHAPE)
        assert {parameter.device for parameter in pair.model.parameters()} == {gpu}
        objective = make_objective("trace", bypass_weight=config.training.bypass_weight)
        loss = annealed(objective(pair.model, pair.guide))(episode, weights)
        assert loss.device == gpu and loss.requires_grad
        pixels = warp(episode.flatten(0, 1), torch.ones(12, 2, device=gpu), torch.ones(12, device=gpu))
        assert pixels.device == gpu


@any_parts
def test_no_gradient_graph_outlives_the_trainers_making_or_a_step(parts: dict[str, Any]) -> None:
    """It would hold a step's activations for ever, and nodes of a stream on which no capture can be made."""
    trainer = make_trainer(**parts)
    for _ in range(2):
        for parameter in trainer.parameters:
            get_gradient_edge(parameter).node.metadata["seen"] = True  # lost with the node
        gc.collect()  # couplings of a flow are in reference cycles
        assert not any("seen" in get_gradient_edge(parameter).node.metadata for parameter in trainer.parameters)
        trainer.train_step()


@pytest.mark.skipif(not CUDA, reason="needs a CUDA device")
@any_parts
def test_a_captured_step_has_the_losses_of_an_eager_one_over_a_hundred_steps(parts: dict[str, Any]) -> None:
    losses = {}
    for capture in ("on", "off"):
        trainer = make_trainer(device="cuda", capture=capture, **parts)
        losses[capture] = torch.stack([trainer.train_step().loss.clone() for _ in range(100)]).cpu()
    torch.testing.assert_close(losses["on"], losses["off"], rtol=1e-4, atol=1e-3)
