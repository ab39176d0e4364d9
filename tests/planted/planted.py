"""Kernels with a fault each: what a sweep must survive. PyTorch's INT8 kernel computes what they compute right."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import time
from dataclasses import dataclass, field

NAME = "{}_i8_i8_bf16_scaled_mm"
GOOD = "pytorch_i8_i8_bf16_scaled_mm"

FAULTS = {
    "raises": "failed",
    "exits": "failed",
    "interrupts": "failed",
    "segfaults": "crashed",
    "aborts": "crashed",
    "hangs": "timed_out",
    "wantsmemory": "out_of_memory",
    "hogs": "out_of_memory",
    "overruns": "incorrect",
    "idles": "incorrect",
    "nans": "incorrect",
    "stale": "incorrect",
    "drifts": "incorrect",
    "spoils": "incorrect",
    "forks": "ok",
    "closes": "crashed",
    "allocates": "ok",
    "prints": "ok",
    "spawns": "ok",
}
"""Fault, which stands for the provider in the name, and the status that it must get."""

CUDA_FAULTS = {
    "spins": "timed_out",
    "strays": "crashed",
    "elsewhere": "incorrect",
}
"""Those that only a GPU can have: a launch that never ends, an illegal access, work on another stream."""


@dataclass
class State:
    """What a fault remembers from call to call."""

    calls: int = 0
    last: object = None
    kept: list[object] = field(default_factory=list)


def raises(operands, good, state):
    raise RuntimeError("this kernel raises")


def exits(operands, good, state):
    raise SystemExit(0)


def interrupts(operands, good, state):
    good()
    state.calls += 1
    if state.calls > 1:
        raise KeyboardInterrupt


def segfaults(operands, good, state):
    ctypes.string_at(8)


def aborts(operands, good, state):
    sys.stderr.write("terminate called after throwing an instance of 'planted'\n")
    sys.stderr.flush()
    os.abort()


def hangs(operands, good, state):
    while True:
        time.sleep(1)


def wantsmemory(operands, good, state):
    operands.out.new_empty(1 << 50)


def hogs(operands, good, state):
    while True:
        state.kept.append(b"x" * (1 << 26))


def overruns(operands, good, state):
    good()
    out = operands.out
    out.as_strided((8,), (1,), out.storage_offset() + out.numel()).zero_()


def idles(operands, good, state):
    pass


def nans(operands, good, state):
    good()
    operands.out[-1, -1] = float("nan")


def stale(operands, good, state):
    good()
    fresh = operands.out.clone()
    if state.last is not None:
        operands.out.copy_(state.last)
    state.last = fresh


def drifts(operands, good, state):
    good()
    state.calls += 1
    operands.out.mul_(1 + 2**-10 * state.calls)


def spoils(operands, good, state):
    good()
    state.calls += 1
    if state.calls > 1:
        operands.b.zero_()


def forks(operands, good, state):
    good()
    os.fork()


def closes(operands, good, state):
    good()
    os.closerange(3, 256)


def allocates(operands, good, state):
    good()
    operands.out.new_empty(1 << 20)


def prints(operands, good, state):
    good()
    print("x" * (1 << 20))


def spawns(operands, good, state):
    good()
    state.calls += 1
    if state.calls == 1:
        subprocess.Popen(["sleep", "1000"])


def spins(operands, good, state):
    import torch

    for _ in range(1 << 10):
        torch.cuda._sleep(1 << 60)


def strays(operands, good, state):
    import torch

    source = 'extern "C" __global__ void stray() { *reinterpret_cast<int *>(8) = 1; }'
    torch.cuda._compile_kernel(source, "stray")(grid=(1, 1, 1), block=(1, 1, 1), args=())


def elsewhere(operands, good, state):
    import torch

    if state.last is None:
        state.last = torch.cuda.Stream()
    with torch.cuda.stream(state.last):
        good()


@dataclass(frozen=True)
class Planted:
    name: str

    def supports(self, problem, device):
        from w8a8_bench.providers import registry

        return registry.get(GOOD).supports(problem, device)

    def prepare(self, problem, device):
        from w8a8_bench.kernel import Launches
        from w8a8_bench.providers import registry

        inner, state = registry.get(GOOD).prepare(problem, device), State()
        fault = globals()[self.name.partition("_")[0]]

        class Prepared:
            config: dict[str, object] = {}  # noqa: RUF012

            def bind(self, operands):
                good = inner.bind(operands).total
                return Launches(lambda: fault(operands, good, state))

        return Prepared()


def probe():
    from w8a8_bench.kernel import Probe

    return Probe.found("planted")


def kernel(name):
    return Planted(name)
