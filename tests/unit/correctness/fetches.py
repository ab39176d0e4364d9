"""What waits for a device: each fetch of a tensor's value costs as much as several small kernels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch.overrides import TorchFunctionMode

WAITING = ("item", "tolist", "nonzero", "equal", "cpu", "numpy", "__bool__", "__int__", "__float__", "__index__")


class Fetches(TorchFunctionMode):
    """Names of the calls within it that would wait for a GPU, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_function__(
        self, func: Callable[..., Any], types: object, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func.__name__ in WAITING:
            self.names.append(func.__name__)
        return func(*args, **(kwargs or {}))


def fetches_of(call: Callable[[], object]) -> list[str]:
    with Fetches() as fetches:
        call()
    return fetches.names
