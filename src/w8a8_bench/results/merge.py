"""One comparison that several processes measured, as one: measures side by side, samples end to end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

from msgspec.structs import replace

from w8a8_bench.kernel import Status
from w8a8_bench.results.record import ComparisonEnd, Duplicate, Record
from w8a8_bench.stats import half_width
from w8a8_bench.timing.settings import Settings

V = TypeVar("V")
Measured = tuple[Sequence[Record], ComparisonEnd]
"""The records of a comparison, in the order of its cells, and its end."""


def merge_measures(passes: Sequence[Measured]) -> Measured:
    """Passes that took different measures of the same cells. The first fault of a cell is its status."""
    records = [_with_measures(of_cell) for of_cell in zip(*(records for records, _ in passes), strict=True)]
    ends = [end for _, end in passes]
    duplicates = [end.duplicate for end in ends if end.duplicate]
    duplicate: Duplicate = {}
    if duplicates:
        duplicate = {
            **duplicates[0],
            "samples": _union([one["samples"] for one in duplicates]),
            "blocks": _union([one["blocks"] for one in duplicates]),
        }
    return records, _as_one(ends, duplicate, "passes")


def merge_processes(processes: Sequence[Measured], settings: Settings) -> Measured:
    """The same measures from several processes: process p's block b becomes block p * stride + b."""
    if len(processes) == 1:
        return processes[0]
    ends = [end for _, end in processes]
    everything = [records for records, _ in processes]
    stride = max([1, *(1 + b for records in everything for r in records for bs in r.blocks.values() for b in bs)])
    stride = max([stride, *(1 + b for end in ends for bs in end.duplicate.get("blocks", {}).values() for b in bs)])
    process_of_block = tuple(process for process in range(len(processes)) for _ in range(stride))
    records = [
        _with_processes(of_cell, stride, process_of_block, settings) for of_cell in zip(*everything, strict=True)
    ]
    duplicate: Duplicate = {}
    duplicates = [end.duplicate for end in ends]
    if all(duplicates) and len({one["cell"] for one in duplicates}) == 1:
        duplicate = {
            **duplicates[0],
            "samples": _end_to_end([one["samples"] for one in duplicates]),
            "blocks": _end_to_end([_shifted(one["blocks"], p * stride) for p, one in enumerate(duplicates)]),
        }
    return records, replace(_as_one(ends, duplicate, "processes"), blocks=sum(end.blocks for end in ends))


def _with_measures(records: Sequence[Record]) -> Record:
    # One whose answer or process can't be trusted goes before the first; what one pass could not time, another did.
    untrusted = (Status.INCORRECT, Status.CRASHED, Status.TIMED_OUT, Status.IMPLAUSIBLE)
    bad = (record for record in records if record.status in untrusted)
    first = next(bad, records[0]) if records[0].status is Status.OK else records[0]
    if first.status is not Status.OK:
        return first
    missing = [f"{record.status.value}: {record.reason}" for record in records if record.status is not Status.OK]
    return replace(
        first,
        reason="; ".join(f"a further measure is missing, {why}" for why in missing),
        rotation=next((record.rotation for record in records if record.rotation), {}),
        samples=_union([record.samples for record in records]),
        blocks=_union([record.blocks for record in records]),
        launches_per_sample=_union([record.launches_per_sample for record in records]),
        clock_mhz=_union([record.clock_mhz for record in records]),
        flags=_flags(records),
    )


def _with_processes(
    records: Sequence[Record], stride: int, process_of_block: tuple[int, ...], settings: Settings
) -> Record:
    # A fault in one process is the cell's.
    first = next((record for record in records if record.status is not Status.OK), records[0])
    if first.status is not Status.OK:
        return first
    merged = replace(
        first,
        samples=_end_to_end([record.samples for record in records]),
        blocks=_end_to_end([_shifted(record.blocks, p * stride) for p, record in enumerate(records)]),
        processes=process_of_block,
        clock_mhz=_end_to_end([record.clock_mhz for record in records]),
        flags=tuple(flag for flag in _flags(records) if flag != "unsettled"),
    )
    width = half_width(merged.samples[settings.headline], merged.groups(settings.headline))
    if width is None or width > settings.stop.target:
        merged = replace(merged, flags=(*merged.flags, "unsettled"))
    return merged


def _flags(records: Sequence[Record]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(flag for record in records for flag in record.flags))


def _union(maps: Sequence[Mapping[str, V]]) -> dict[str, V]:
    return {name: value for one in reversed(maps) for name, value in one.items()}


def _end_to_end(maps: Sequence[Mapping[str, Sequence[V]]]) -> dict[str, tuple[V, ...]]:
    """By measure, what all processes have; a measure that one lacks is left out."""
    return {name: tuple(v for one in maps for v in one[name]) for name in maps[0] if all(name in one for one in maps)}


def _shifted(blocks: Mapping[str, Sequence[int]], by: int) -> dict[str, tuple[int, ...]]:
    return {measure: tuple(block + by for block in numbers) for measure, numbers in blocks.items()}


def _machine(ends: Sequence[ComparisonEnd], what: str) -> Mapping[str, object]:
    """What disturbed any of them, for all; and what each saw."""
    if len(ends) == 1:
        return ends[0].machine
    merged: dict[str, object] = dict(ends[0].machine)
    for name, join in (("voided_blocks", sum), ("other_processes", max)):
        known = [value for value in (end.machine.get(name) for end in ends) if isinstance(value, int)]
        if known:
            merged[name] = join(known)
    return {**merged, what: [end.machine for end in ends]}


def _as_one(ends: Sequence[ComparisonEnd], duplicate: Duplicate, what: str) -> ComparisonEnd:
    """The first of `ends` with what took time, memory and disturbed the machine in all of them."""
    phases = dict.fromkeys(phase for end in ends for phase in end.seconds)
    return replace(
        ends[0],
        seconds={phase: sum(end.seconds.get(phase, 0.0) for end in ends) for phase in phases},
        duplicate=duplicate,
        machine=_machine(ends, what),
        memory_bytes=max((end.memory_bytes for end in ends if end.memory_bytes is not None), default=None),
    )
