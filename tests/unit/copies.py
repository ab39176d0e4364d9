"""A copy of a record, a problem or a device, with some fields changed."""

from __future__ import annotations

import dataclasses
from typing import TypeVar

import msgspec

T = TypeVar("T")


def replace(item: T, **changes: object) -> T:
    """What `copy.replace` of Python 3.13 is: one function for structs and for dataclasses."""
    if isinstance(item, msgspec.Struct):
        return msgspec.structs.replace(item, **changes)
    return dataclasses.replace(item, **changes)  # type: ignore[type-var]
