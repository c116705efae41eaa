"""Types of the options of a collection, which scripts read before they import what it needs."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

IndexName = Literal["auto", "exact", "faiss"]
Candidates = Annotated[int, Field(ge=1, le=2**16)]
