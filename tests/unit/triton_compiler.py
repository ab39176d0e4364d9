"""Triton's compiler without a GPU: for the target that a test names, and what ptxas made of it."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

import torch
import triton
from triton.backends.compiler import GPUTarget

from w8a8_bench.kernels.triton.launch import Call

TOOLS = Path(triton.__file__).parent / "backends/nvidia/bin"


class NoGpu:
    """What Triton asks its active driver before it compiles."""

    def __init__(self, capability: int) -> None:
        self._capability = capability

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self._capability, 32)

    def get_current_device(self) -> int:
        return self._capability  # compiled kernels are kept by device

    def get_current_stream(self, device: int) -> int:
        return 0


@dataclass(frozen=True)
class Built:
    """A compiled kernel: its PTX, the shared memory that it asks for, and the stack of a thread, which is spills."""

    ptx: str
    shared_bytes: int
    stack_bytes: int

    def count(self, instruction: str) -> int:
        return len(re.findall(instruction, self.ptx))


def build(call: Call, capability: int, directory: Path) -> Built:
    """Compile `call` for a compute capability such as 90."""
    triton.runtime.driver.set_active(NoGpu(capability))
    try:
        compiled = call.compile()
    finally:
        if torch.cuda.is_available():  # else there is none to go back to
            triton.runtime.driver.reset_active()
    cubin = directory / "kernel.cubin"
    cubin.write_bytes(compiled.asm["cubin"])
    usage = subprocess.run([TOOLS / "cuobjdump", "-res-usage", cubin], capture_output=True, text=True, check=True)
    stack = re.search(r"STACK:(\d+)", usage.stdout)
    assert stack is not None, usage.stdout
    return Built(compiled.asm["ptx"], compiled.metadata.shared, int(stack[1]))
