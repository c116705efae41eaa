"""Ranges of the numbers that scripts and Python callers give; more would not end, or would not fit into memory."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from kpp_pyro.schema import Count, Natural

Seed = Natural
Limit = Count  # of images; there may be fewer
Particles = Annotated[int, Field(ge=1, le=1_000_000)]  # all of an image are held at once
ControlParticles = Annotated[int, Field(ge=0, le=1_000_000)]
RefineSteps = Annotated[int, Field(ge=0, le=1_000_000)]
Temperature = Annotated[float, Field(gt=0, le=10)]  # of samples
Temperatures = Annotated[int, Field(ge=0, le=1_000_000)]
Reads = Annotated[int, Field(ge=1, le=10_000)]  # iterative ones; each keeps its images
CleanUpReads = Annotated[int, Field(ge=0, le=10_000)]
Samples = Annotated[int, Field(ge=1, le=1_000_000)]
SMALLEST_BITS = 1  # of a rounded scalar: its sign
LARGEST_BITS = 16  # of a float32's 24, so that rounding to a level is exact
ContentBits = Annotated[int, Field(ge=SMALLEST_BITS, le=LARGEST_BITS)]
InterpolatedImages = Annotated[int, Field(ge=2, le=1_000_000)]
