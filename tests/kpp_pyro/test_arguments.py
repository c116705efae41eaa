"""Arguments are checked against annotations."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from torch import Tensor

from inference.ranges import Particles
from kpp_pyro.arguments import checked
from kpp_pyro.errors import InputError


@checked
def function(
    images: Tensor,
    path: Path | str,
    particles: Particles = 3,
    split: Literal["test", "validation"] = "test",
    *,
    generator: torch.Generator | None = None,
    shape: tuple[int, ...] = (),
    free=None,
    **others: int,
) -> object:
    return images, path, particles, split, generator, shape, free, others


IMAGES = torch.ones(2)


@pytest.mark.parametrize("number", [1, np.int64(4), np.uint8(4), 1_000_000])
def test_arguments_of_the_right_kind_arrive_as_they_are(number):
    generator, free = torch.Generator(), object()
    found = function(IMAGES, "a", number, generator=generator, shape=[1, 2], free=free, other="x")
    assert found[0] is IMAGES and found[1:] == ("a", number, "test", generator, [1, 2], free, {"other": "x"})


@pytest.mark.parametrize(
    ("arguments", "named", "sentence"),
    [
        ((np.ones(2), "a"), {}, "images: expected a Tensor, found a ndarray"),
        ((None, "a"), {}, "images: expected a Tensor, found None"),
        ((IMAGES, 3), {}, "path: expected a path, found 3"),
        ((IMAGES, b"a"), {}, "path: expected a path, found b'a'"),
        ((IMAGES, "a", 0), {}, "particles: expected at least 1, found 0"),
        ((IMAGES, "a", 10**7), {}, "particles: expected at most 1000000, found 10000000"),
        ((IMAGES, "a", 2.0), {}, "particles: expected a whole number, found 2.0"),
        ((IMAGES, "a", True), {}, "particles: expected a whole number, found True"),
        ((IMAGES, "a", "q" * 1000), {}, "particles: expected a whole number, found '" + "q" * 99),
        ((IMAGES, "a", 1, "train"), {}, "split: expected one of test or validation, found 'train'"),
        ((IMAGES, "a"), {"generator": 0}, "generator: expected a Generator, found 0"),
    ],
)
def test_other_arguments_get_one_sentence_that_names_them(arguments, named, sentence):
    with pytest.raises(InputError) as error:
        function(*arguments, **named)
    assert str(error.value) == sentence


def test_a_call_that_does_not_fit_is_pythons_own_error():
    with pytest.raises(TypeError, match="missing a required argument: 'path'"):
        function(IMAGES)
