"""Optimiser steps captured as a CUDA graph and replayed."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import ClassVar

import torch
from torch import Tensor

from inference.runs.trainer import Step, StepResult
from kpp_pyro.errors import InputError

_EAGER_STEPS = 4  # before capture: they create the optimiser's state, and libraries choose their kernels


class CapturedStepper:
    """Takes a few eager steps, then captures one as a CUDA graph and replays it.

    A replay launches a step's thousand small kernels at once. The inputs that change between steps are copied to the
    tensors that the graph reads: the draw, the KL weights, and the learning rate, which a `capturable` optimiser holds
    as a tensor. Losses are those of eager steps, random numbers included.

    Args:
        step: the step, on a CUDA device.
        generators: random generators that the step draws from, in addition to the default one.
    """

    capturable: ClassVar[bool] = True

    def __init__(self, step: Step, generators: Sequence[torch.Generator]) -> None:
        self.step, self.generators = step, generators
        self.steps_taken = 0
        self._stream = torch.cuda.Stream(step.device)
        self._graph = torch.cuda.CUDAGraph()
        self._inputs: tuple[Tensor, dict[str, Tensor]] | None = None
        self._result: StepResult | None = None

    def __call__(self, drawn: Tensor, kl_weights: Mapping[str, float], learning_rate: float) -> StepResult:
        """Take a step on a draw on the CPU; the next step overwrites the result's tensors.

        Raises:
            InputError: the step cannot be captured.
        """
        with torch.cuda.device(self.step.device):
            inputs = self._fill(drawn, kl_weights, learning_rate)
            self.steps_taken += 1
            if self.steps_taken <= _EAGER_STEPS:
                with self._on_capture_stream():
                    return self.step(*inputs)
            if self._result is None:
                self._result = self._capture(*inputs)
            self._graph.replay()
            return self._result

    def _fill(
        self, drawn: Tensor, kl_weights: Mapping[str, float], learning_rate: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Copy the inputs of a step to the tensors that the graph reads."""
        if self._inputs is None:
            device = self.step.device
            weights = {name: torch.zeros((), device=device) for name in kl_weights}
            self._inputs = torch.empty_like(drawn, device=device), weights
        self._inputs[0].copy_(drawn, non_blocking=True)
        for name, weight in kl_weights.items():
            self._inputs[1][name].fill_(weight)
        self.step.optimizer.param_groups[0]["lr"].fill_(learning_rate)
        return self._inputs

    def _capture(self, drawn: Tensor, kl_weights: dict[str, Tensor]) -> StepResult:
        for generator in self.generators:
            self._graph.register_generator_state(generator)
        self.step.optimizer.zero_grad(set_to_none=True)  # gradients are then allocated in the graph's own memory
        try:
            # thread_local: other threads (TensorBoard, a loader) may use the device during the capture.
            with torch.cuda.graph(self._graph, stream=self._stream, capture_error_mode="thread_local"):
                return self.step(drawn, kl_weights)
        except RuntimeError as error:
            cause = error.__context__ or error  # ending a capture that has failed raises an error of its own
            reason = str(cause).splitlines()[0]
            expected = "expected a step that can be captured as a CUDA graph"
            raise InputError(f"--capture: {expected}, found {reason}; use --capture off") from error

    @contextmanager
    def _on_capture_stream(self) -> Iterator[None]:
        """Run on the capture's stream, after the current stream's work so far and before its later work."""
        current = torch.cuda.current_stream()
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream), warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*capturable=True.*")  # it is capturable, for the later capture
            yield
        current.wait_stream(self._stream)
