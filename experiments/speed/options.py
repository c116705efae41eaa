"""Other ways to run the same step: what pays and what does not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from pyro.infer import Trace_ELBO
from torch import Tensor, nn

from experiments.config import Config, replace_flat
from experiments.speed.contenders import pyro_trainer, random_images
from experiments.speed.timing import alternate, medians, ratio
from inference.objectives import PLATE_NESTING, annealed
from inference.step import Step
from inference.training import Trainer
from kpp_pyro.networks.precision import InPrecision

_CALLS = 5  # steps in one timing
AS_IT_IS = "as it is"


def time_options(config: Config, repeats: int) -> dict[str, Any]:
    """Time eager steps with one thing changed, in turns with the step as it is; and why a way fails, if it does."""
    config = replace_flat(config, {"capture": "off"})
    images, failures = random_images(config), dict[str, str]()
    ways: dict[str, Callable[[], object]] = {AS_IT_IS: pyro_trainer(config, images).train_step}
    for name, change in _changes(config).items():
        trainer = pyro_trainer(config, images)
        try:
            change(trainer)
            for _ in range(3):  # the first compiles, the second is without validation
                trainer.train_step()
        except Exception as error:
            failures[name] = f"{type(error).__name__}: {str(error).splitlines()[0]}"
        else:
            ways[name] = trainer.train_step
    seconds = alternate(ways, repeats, _CALLS, torch.device(config.device))
    return {
        "milliseconds": medians(seconds),
        "ratios": {f"{name} / {AS_IT_IS}": ratio(seconds, name, AS_IT_IS) for name in ways if name != AS_IT_IS},
        "failures": failures,
    }


def _changes(config: Config) -> dict[str, Callable[[Trainer], None]]:
    changes: dict[str, Callable[[Trainer], None]] = {
        "Trace_ELBO": _use_trace_elbo,
        "clip_grad_norm_ and fused AdamW": lambda trainer: _use_optimizer(trainer, fused=True),
        "clip_grad_norm_ and foreach AdamW": lambda trainer: _use_optimizer(trainer, foreach=True),
        "networks compiled": _compile,
    }
    if config.network.networks == "conv":
        changes["channels_last"] = _use_channels_last
    return changes


def _use_trace_elbo(trainer: Trainer) -> None:
    trainer.stepper.step.loss = annealed(Trace_ELBO(max_plate_nesting=PLATE_NESTING)(trainer.model, trainer.guide))


def _use_optimizer(trainer: Trainer, **kind: bool) -> None:
    optimizer = torch.optim.AdamW(trainer.parameters, lr=trainer.plan.learning_rate, **kind)  # type: ignore[arg-type]
    step = _ClippedBefore(trainer.stepper.step.loss, optimizer, trainer.episodes.render, trainer.plan.gradient_norm)
    trainer.stepper.step = step


class _ClippedBefore(Step):
    """Clips the gradient in a pass of its own, and looks at it before it is followed."""

    def descend(self, loss: Tensor) -> Tensor:
        norm = nn.utils.clip_grad_norm_(self.parameters, self.gradient_norm)
        if (loss + norm).isfinite():
            self.optimizer.step()
        return norm


def _compile(trainer: Trainer) -> None:
    for pair in (trainer.model, trainer.guide):
        for module in pair.modules():
            if isinstance(module, InPrecision):
                module.network.compile()


def _use_channels_last(trainer: Trainer) -> None:
    for pair in (trainer.model, trainer.guide):
        pair.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
