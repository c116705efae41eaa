"""Bad input that a program finds is one sentence."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine

from kpp_pyro.errors import InputError


def test_an_error_inside_a_program_is_its_sentence_without_the_sites_that_pyro_adds() -> None:
    def program() -> None:
        pyro.sample("key", dist.Normal(torch.zeros(3), 1.0).to_event(1))
        raise InputError("images: expected a cue\nof 3 channels, found 1")

    with pytest.raises(InputError, match=r"^images: expected a cue of 3 channels, found 1$"):
        poutine.trace(program).get_trace()
