"""The instrument's own kernels, in CUDA C: a clock probe, an L2 scrub and spins of known length.

Compiled by NVRTC, which comes with PyTorch, when a timer first needs them; `cuda-bindings`, which PyTorch requires,
loads and launches them. Nothing here allocates, so that all of it can be captured in a graph.
"""

from __future__ import annotations

import ctypes
import functools
from statistics import median
from typing import Any

import torch

from w8a8_bench.environment.device import Device

SOURCE = r"""
extern "C" {

// One thread a multiprocessor: its cycle counter, and nanoseconds of the global timer, at slot %smid.
__global__ void read_clocks(long long *slots)
{
    if (threadIdx.x) return;
    unsigned sm;
    long long cycles, ns;
    asm volatile("mov.u32 %0, %%smid;" : "=r"(sm));
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(ns));
    asm volatile("mov.u64 %0, %%clock64;" : "=l"(cycles));
    slots[2 * sm] = cycles;
    slots[2 * sm + 1] = ns;
}

// Reads `count` times 16 bytes, so that whatever the L2 held is gone and no line of it waits to be written.
__global__ void read_all(const uint4 *data, unsigned long long count, unsigned *sink)
{
    unsigned seen = 0;
    unsigned long long step = (unsigned long long)gridDim.x * blockDim.x;
    for (unsigned long long i = (unsigned long long)blockIdx.x * blockDim.x + threadIdx.x; i < count; i += step) {
        uint4 word = data[i];
        seen |= word.x | word.y | word.z | word.w;
    }
    if (seen == 0x5eed5eed) *sink = seen;  // never; without it the loads would be dropped
}

// Blocks that end in random order, so that the next kernel finds multiprocessors free in another order.
__global__ void jolt()
{
    long long start, now;
    asm volatile("mov.u64 %0, %%clock64;" : "=l"(start));
    unsigned hash = ((unsigned)start ^ blockIdx.x * 2654435761u) * 2246822519u;
    long long duration = (hash ^ hash >> 15) % 1024;
    do asm volatile("mov.u64 %0, %%clock64;" : "=l"(now));
    while (now - start < duration);
}

__device__ unsigned long long spin(unsigned long long duration)
{
    unsigned long long start, now;
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(start));
    do asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now));
    while (now - start < duration);
    return now - start;
}

__global__ void spin_ns(unsigned long long duration) { spin(duration); }

// Under a name of its own, which a profiler tells from a spin that is timed. Adds its cycles and nanoseconds to
// `spent`: a GPU that only spins clocks higher than one that multiplies.
__global__ void spin_apart(unsigned long long duration, long long *spent)
{
    long long start, end;
    asm volatile("mov.u64 %0, %%clock64;" : "=l"(start));
    long long ns = spin(duration);
    asm volatile("mov.u64 %0, %%clock64;" : "=l"(end));
    spent[0] += end - start;
    spent[1] += ns;
}

__global__ void forget_apart(long long *spent) { spent[0] = spent[1] = 0; }

}
"""

SM_SLOTS = 1024
"""More multiprocessors than any GPU numbers. Numbers may have holes, so slots are not counted by `sm_count`."""

SCRUB_THREADS = 512

JOLT_WAVES, JOLT_THREADS = 16, 512
"""Blocks a multiprocessor, four of which run at a time."""


@functools.cache
def load(device: Device) -> DeviceCode:
    """The kernels on `device`, compiled once a process. Raises DeviceCodeError if that fails."""
    return DeviceCode(device)


class DeviceCodeError(RuntimeError):
    """The instrument's kernels can't be compiled or loaded here."""


class DeviceCode:
    """The kernels, loaded on one GPU. Every method enqueues one launch on the current stream."""

    def __init__(self, device: Device) -> None:
        try:
            from cuda.bindings import driver, nvrtc
        except ImportError as error:
            raise DeviceCodeError(f"cuda-bindings is missing ({error}): pip install cuda-bindings") from None
        self._driver, self._nvrtc = driver, nvrtc
        self._device = torch.device(device.torch_name)
        torch.cuda.init()
        with torch.cuda.device(self._device):
            torch.zeros(1, device=self._device)  # makes PyTorch's context the current one
            self._module = self._ok(driver.cuModuleLoadData(self._compile(device)))
        self._functions = {
            name: self._ok(driver.cuModuleGetFunction(self._module, name.encode())) for name in _ARGUMENTS
        }
        self._sm_count = device.sm_count or 1

    def read_clocks(self, slots: torch.Tensor) -> None:
        """Write cycles and nanoseconds of every multiprocessor to `slots`, int64 [SM_SLOTS, 2]."""
        self._launch("read_clocks", 2 * self._sm_count, 32, slots.data_ptr())

    def read_all(self, data: torch.Tensor) -> None:
        """Read the whole of `data`, whose address and size are multiples of 16 bytes."""
        self._launch("read_all", 8 * self._sm_count, SCRUB_THREADS, data.data_ptr(), data.nbytes // 16, data.data_ptr())

    def jolt(self) -> None:
        """Keep all multiprocessors busy for a few microseconds, and let them become free in random order."""
        self._launch("jolt", JOLT_WAVES * self._sm_count, JOLT_THREADS)

    def spin_ns(self, nanoseconds: int, blocks: int = 1) -> None:
        """Keep a thread of each of `blocks` blocks busy until the global timer has gone on by `nanoseconds`."""
        self._launch("spin_ns", blocks, 1, nanoseconds)

    def spin_apart(self, nanoseconds: int, spent: torch.Tensor) -> None:
        """As `spin_ns`, to keep launches apart. Adds its cycles and nanoseconds to `spent`, int64 [2]."""
        self._launch("spin_apart", 1, 1, nanoseconds, spent.data_ptr())

    def forget_apart(self, spent: torch.Tensor) -> None:
        """Begin to count what spins that keep launches apart spend."""
        self._launch("forget_apart", 1, 1, spent.data_ptr())

    def _launch(self, name: str, blocks: int, threads: int, *values: int) -> None:
        stream = torch.cuda.current_stream(self._device).cuda_stream
        parameters = (values, _ARGUMENTS[name]) if values else 0
        self._ok(
            self._driver.cuLaunchKernel(self._functions[name], blocks, 1, 1, threads, 1, 1, 0, stream, parameters, 0)
        )

    def _compile(self, device: Device) -> Any:
        nvrtc = self._nvrtc
        major, minor = device.capability or (0, 0)
        program = self._ok(nvrtc.nvrtcCreateProgram(SOURCE.encode(), b"device_code.cu", 0, [], []))
        options = [f"--gpu-architecture=sm_{major}{minor}".encode()]
        (result, *_) = nvrtc.nvrtcCompileProgram(program, len(options), options)
        if int(result) != 0:
            log = b" " * self._ok(nvrtc.nvrtcGetProgramLogSize(program))
            self._ok(nvrtc.nvrtcGetProgramLog(program, log))
            raise DeviceCodeError(f"NVRTC for sm_{major}{minor}: {result.name}: {' '.join(log.decode().split())}")
        image = b" " * self._ok(nvrtc.nvrtcGetCUBINSize(program))
        self._ok(nvrtc.nvrtcGetCUBIN(program, image))
        return image

    @staticmethod
    def _ok(answer: tuple[Any, ...]) -> Any:
        """The value of a call's answer; raises DeviceCodeError for an error code."""
        result, *values = answer
        if int(result) != 0:
            raise DeviceCodeError(f"CUDA says {result.name}")
        return values[0] if values else None


_ARGUMENTS = {
    "read_clocks": (ctypes.c_void_p,),
    "read_all": (ctypes.c_void_p, ctypes.c_uint64, ctypes.c_void_p),
    "jolt": (),
    "spin_ns": (ctypes.c_uint64,),
    "spin_apart": (ctypes.c_uint64, ctypes.c_void_p),
    "forget_apart": (ctypes.c_void_p,),
}


def clock_mhz(before: torch.Tensor, after: torch.Tensor) -> float | None:
    """SM clock between two `read_clocks`: the median over the multiprocessors that both saw; None for none."""
    rates = [1e3 * cycles / ns for cycles, ns in _elapsed(before, after)]
    return median(rates) if rates else None


def busy_clock_mhz(before: torch.Tensor, after: torch.Tensor, apart: torch.Tensor, busy_s: float) -> float | None:
    """As `clock_mhz`, but only of the `busy_s` in which launches ran between the two readings.

    The rest of the time, spins and gaps, is taken to have passed at the clock of the spins, which `apart` holds.
    """
    spin_cycles, spin_ns = apart.tolist()
    busy_ns = 1e9 * busy_s
    rates = [
        1e3 * (cycles - spin_cycles / spin_ns * (ns - busy_ns)) / busy_ns for cycles, ns in _elapsed(before, after)
    ]
    return median(rates) if rates else None


def _elapsed(before: torch.Tensor, after: torch.Tensor) -> list[tuple[int, int]]:
    """Cycles and nanoseconds of each multiprocessor that both readings saw."""
    pairs = zip(before.tolist(), after.tolist(), strict=True)
    return [(late[0] - early[0], late[1] - early[1]) for early, late in pairs if early[1] and late[1] > early[1]]
