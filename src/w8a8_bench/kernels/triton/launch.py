"""A Triton kernel with everything that it is launched with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import triton


@dataclass(frozen=True)
class Call:
    """A launch, ready to be enqueued on the current stream of the current device as often as wanted.

    `kernel` is a `triton.jit` function. `constants` are its compile-time parameters and the compiler's options.
    """

    kernel: Any
    grid: tuple[int, ...]
    arguments: tuple[object, ...]
    constants: Mapping[str, object]

    def __call__(self) -> None:
        self.kernel[self.grid](*self.arguments, **self.constants)

    def enqueue_on(self, device: torch.device) -> None:
        """Enqueue on `device`, whichever is current. Raises ValueError if Triton can't run there."""
        if device.type == "cuda":
            with torch.cuda.device(device):
                self()
        elif triton.knobs.runtime.interpret:
            self()
        else:
            raise ValueError(f"tensors on {device}: Triton's kernels need an NVIDIA GPU")

    def compile(self) -> Any:
        """Compile without launching, for the target of Triton's active driver; returns Triton's compiled kernel."""
        return self.kernel.warmup(*self.arguments, grid=self.grid, **self.constants)
