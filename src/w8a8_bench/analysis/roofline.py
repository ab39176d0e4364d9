"""What a GPU's tensor cores and memory allow for a problem: times that are less than that, and how near others come."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from w8a8_bench.environment.architecture import operations_per_clock
from w8a8_bench.environment.device import Device
from w8a8_bench.kernel import Status
from w8a8_bench.problem import Problem
from w8a8_bench.problem.work import bytes_moved, flops
from w8a8_bench.results.record import Record
from w8a8_bench.stats import estimate, median
from w8a8_bench.text import format_time
from w8a8_bench.timing.measures import COLD_MEASURES

OPERATIONS_MARGIN = 0.03
"""How far below the operations' floor a time is still plausible.

The clock is measured around each replay, not at each launch, and may wander by one or two of its 15 MHz steps within
one: 1.5% of 1980 MHz. Real kernels stay some percent above the floor, so more would only hide work that was left out.
"""

BYTES_MARGIN = 0.06
"""How far below the bytes' floor a time is still plausible: the share of lines that survive in an L2 which is not
strictly least-recently-used, after operand sets of three times its size."""

_READ_ONLY_H200 = (
    (0.0, 0.8e-6),
    (8.4e6, 3.75e-6),
    (16.8e6, 5.54e-6),
    (25.2e6, 7.37e-6),
    (58.7e6, 15.2e-6),
    (67.1e6, 17.0e-6),
    (117.4e6, 27.6e-6),
)
"""Bytes, and the seconds of a kernel on an H200 which only reads that many, cold: its period in replayed graphs. The
first is an empty kernel."""


@dataclass(frozen=True, kw_only=True)
class Floor:
    """The least seconds that the operations and the bytes of a problem take; None if nothing is known."""

    operations_s: float | None
    bytes_s: float | None


def least_seconds(problem: Problem, device: Device, *, clock_mhz: float | None, cold: bool) -> Floor:
    """At the measured SM clock, or at the highest that the device has if `clock_mhz` is None.

    Of the bytes only the inputs count, and only if they are `cold`, so that each comes from memory: the output
    may stay in the L2. Memory is taken at its nominal bandwidth, of which a copy reaches some nine tenths.
    """
    per_second = _operations_per_second(problem, device, clock_mhz)
    bandwidth = device.memory_bandwidth if cold else None
    return Floor(
        operations_s=flops(problem) / per_second if per_second else None,
        bytes_s=_input_bytes(problem) / bandwidth if bandwidth else None,
    )


def read_floor(problem: Problem, device: Device) -> float | None:
    """Seconds that a kernel takes that reads the inputs of `problem` once from memory and does nothing else.

    On an H200 it is interpolated between times that were measured there, and goes on at the nominal bandwidth beyond
    the last: for 8 MB it is twice bytes over bandwidth, which no kernel reaches at that size. For other GPUs bytes over
    nominal bandwidth is all that is known. None if not even that is.
    """
    if not device.memory_bandwidth:
        return None
    n_bytes = _input_bytes(problem)
    if device.name != "NVIDIA H200":
        return n_bytes / device.memory_bandwidth
    for (bytes_low, low_s), (bytes_high, high_s) in itertools.pairwise(_READ_ONLY_H200):
        if n_bytes <= bytes_high:
            share = (n_bytes - bytes_low) / (bytes_high - bytes_low)
            return low_s + share * (high_s - low_s)
    last_bytes, last_s = _READ_ONLY_H200[-1]
    return last_s + (n_bytes - last_bytes) / device.memory_bandwidth


@dataclass(frozen=True, kw_only=True)
class Roofline:
    """How near a launch comes to what its device allows: 100 is there. None if it is not known.

    of_peak   percent of the tensor cores' dense peak for the operands' format, at the SM clock measured
    of_reads  percent of `read_floor`: the floor over the time
    """

    of_peak: float | None
    of_reads: float | None

    @property
    def limit(self) -> tuple[float, str] | None:
        """The larger of both, and what it is of: `compute` or `memory`."""
        known = [(p, of) for p, of in ((self.of_peak, "compute"), (self.of_reads, "memory")) if p is not None]
        return max(known, default=None)


def roofline(record: Record, measure: str, device: Device) -> Roofline:
    """Of the time of `measure` (`stats.estimate`), for whole launches: quantization inside the region takes time, and
    adds no operations.

    Without a clock there is no percent of the peak, and only measures that find their operands in memory
    (`measures.COLD_MEASURES`) have one of the reads. A record that is not `ok`, or lacks the measure, has neither.
    """
    samples = record.samples.get(measure)
    if record.status is not Status.OK or not samples:
        return Roofline(of_peak=None, of_reads=None)
    seconds = estimate(samples, record.groups(measure))
    clocks = record.clock_mhz.get(measure)
    per_second = _operations_per_second(record.problem, device, median(clocks)) if clocks else None
    reads = read_floor(record.problem, device) if measure in COLD_MEASURES else None
    return Roofline(
        of_peak=100 * flops(record.problem) / per_second / seconds if per_second else None,
        of_reads=100 * reads / seconds if reads else None,
    )


def why_implausible(
    problem: Problem, seconds: float, device: Device, *, clock_mhz: float | None, cold: bool
) -> str | None:
    """One line with the figures if a launch is known to have taken less time than the device needs, else None."""
    floor = least_seconds(problem, device, clock_mhz=clock_mhz, cold=cold)
    operations_s, bytes_s = floor.operations_s or 0.0, floor.bytes_s or 0.0
    least_operations_s, least_bytes_s = operations_s * (1 - OPERATIONS_MARGIN), bytes_s * (1 - BYTES_MARGIN)
    if not seconds < max(least_operations_s, least_bytes_s):
        return None
    if least_operations_s >= least_bytes_s:
        clock = f"{_clock_mhz(device, clock_mhz):.0f} MHz" + (", the highest clock" if clock_mhz is None else "")
        return (
            f"{format_time(seconds)} a launch: {flops(problem):.4g} operations take at least "
            f"{format_time(operations_s)} on {device.sm_count} SMs at {clock}"
        )
    return (
        f"{format_time(seconds)} a launch: {_input_bytes(problem):.4g} bytes of inputs take at least "
        f"{format_time(bytes_s)} from memory at {(device.memory_bandwidth or 0) / 1e12:.4g} TB/s"
    )


def _operations_per_second(problem: Problem, device: Device, clock_mhz: float | None) -> float | None:
    clock = _clock_mhz(device, clock_mhz)
    if device.capability is None or device.sm_count is None or clock is None:
        return None
    per_clock = operations_per_clock(device.capability, problem.format)
    return None if per_clock is None else per_clock * device.sm_count * clock * 1e6


def _clock_mhz(device: Device, measured: float | None) -> float | None:
    return device.max_sm_clock_mhz if measured is None else measured


def _input_bytes(problem: Problem) -> int:
    return bytes_moved(problem) - problem.shape.m * problem.shape.n * problem.out.n_bytes
