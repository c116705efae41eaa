"""Records of tensors (dataclasses, dicts and tuples of them), joined or changed tensor by tensor."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

Record = TypeVar("Record")


def combine(records: Sequence[Record], join: Callable[[Sequence[Tensor]], Tensor]) -> Record:
    """One record from records of the same form, by joining their tensors one by one."""
    first: Any = records[0]
    rest: Any = records
    if isinstance(first, Tensor):
        return join(rest)  # type: ignore[return-value]
    if isinstance(first, dict):
        return {key: combine([record[key] for record in rest], join) for key in first}  # type: ignore[return-value]
    if isinstance(first, tuple):
        return tuple(combine(parts, join) for parts in zip(*rest, strict=True))  # type: ignore[return-value]
    fields = [field.name for field in dataclasses.fields(first)]
    return type(first)(*(combine([getattr(record, name) for record in rest], join) for name in fields))


def concatenate(records: Sequence[Record]) -> Record:
    """Records of several sets of data as one, along the first axis of every tensor."""
    return combine(records, lambda values: torch.cat(list(values)))
