"""Shares of one plan that were measured apart, each with `--shard`, and the one sweep that they are joined to."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from msgspec.structs import replace

from w8a8_bench.results.json_lines import Results, StoreError
from w8a8_bench.results.measured_comparison import MeasuredComparison
from w8a8_bench.results.record import SCHEMA, RunHeader
from w8a8_bench.text import counted, few, one_line

MOST_SHAPES = 1 << 31
"""A foreign header may claim any number of comparisons."""


@dataclass(frozen=True)
class Shard:
    """One of `count` shares of a plan, by its number from 1: every `count`-th comparison."""

    number: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """From `2/8`. Raises ValueError."""
        found = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", text, re.ASCII)
        shard = cls(int(found[1]), int(found[2])) if found else None
        if shard is None or not 1 <= shard.number <= shard.count:
            raise ValueError(f"{text!r}: expected I/N, the I-th of N shares, with I from 1 to N, such as 2/8")
        return shard

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    def has(self, index: int) -> bool:
        """Whether the comparison of this index in the whole plan is in this share."""
        return index % self.count == self.number - 1


@dataclass(frozen=True)
class Joined:
    """What one sweep would have recorded: `missing` counts the comparisons of the plan that no shard has."""

    header: RunHeader
    comparisons: tuple[MeasuredComparison, ...]
    missing: int


def join(files: Sequence[Results], *, partial: bool = False) -> Joined:
    """The shards of one sweep as one: comparisons in plan order under the first shard's header, with all devices.

    Raises StoreError, which names the file, for what is no shard, belongs to another sweep (plan, settings, software or
    GPU), holds a comparison that is not its own, or is there twice. So does a shard that is missing or not finished,
    unless `partial`.
    """
    parts = sorted(((_shard_of(file), file) for file in files), key=lambda part: part[0].number)
    (first, reference), *_ = parts
    for shard, file in parts:
        _refuse_another_sweep(file, shard, reference, first)
    total = reference.headers[0].plan.get("comparisons")
    if not isinstance(total, int) or not first.count <= total < MOST_SHAPES:
        raise StoreError(f"{reference.path} is no shard of this program: its plan has {total!r} comparisons")
    missing: list[str] = []
    found: dict[int, Results] = {}
    for shard, file in parts:
        if shard.number in found:
            raise StoreError(f"{found[shard.number].path} and {file.path} are both shard {shard}: leave one out")
        found[shard.number] = file
        own = range(shard.number - 1, total, shard.count)
        _refuse_foreign(file, shard, own)
        if left := len(own) - len(file.comparisons):
            missing.append(f"{file.path} lacks {left} of its {counted(len(own), 'shape')}")
    absent = [str(Shard(number, first.count)) for number in range(1, first.count + 1) if number not in found]
    if absent:
        are = "s are" if len(absent) > 1 else " is"
        missing.insert(0, f"shard{are} missing: {few(absent)}")
    if missing and not partial:
        raise StoreError(f"{few(missing)}; --partial joins what there is")
    comparisons = sorted((one for file in files for one in file.comparisons), key=lambda one: one.end.index)
    return Joined(_header([file for _, file in parts]), tuple(comparisons), total - len(comparisons))


def _shard_of(file: Results) -> Shard:
    text = file.headers[0].plan.get("shard")
    if text is None:
        raise StoreError(f"{file.path} is no shard: it was measured without --shard")
    try:
        return Shard.parse(str(text))
    except ValueError as error:
        raise StoreError(f"{file.path} is no shard of this program: its shard is {error}") from None


def _refuse_another_sweep(file: Results, shard: Shard, reference: Results, first: Shard) -> None:
    def refuse(what: str) -> StoreError:
        return StoreError(f"{file.path} does not belong to the sweep of {reference.path}: {one_line(what)}")

    if shard.count != first.count:
        raise refuse(f"it is shard {shard}, and there it is {first}")
    expected = dict(_conditions(reference.headers[0]))
    for header in file.headers:
        conditions = dict(_conditions(header))
        resumed = " since it was resumed" if header is not file.headers[0] else ""
        for name in {**expected, **conditions}:
            ours, theirs = conditions.get(name, "not recorded"), expected.get(name, "not recorded")
            if ours != theirs and name in ("cells", "comparisons"):
                raise refuse("it has other shapes, kernels, schemes or activations")
            if ours != theirs:
                raise refuse(f"its {name} is {ours!r}{resumed}, and there it is {theirs!r}")


def _conditions(header: RunHeader) -> Iterator[tuple[str, Any]]:
    """What the runs of one sweep have in common, fact by fact."""
    yield from ((name, value) for name, value in header.plan.items() if name != "shard")
    yield from header.settings.items()
    yield "device", ", ".join(sorted({str(device.get("name")) for device in _devices(header)}))
    yield from header.facts.items()


def _devices(header: RunHeader) -> Sequence[Any]:
    return header.devices or (header.device,)


def _refuse_foreign(file: Results, shard: Shard, own: range) -> None:
    done: set[int] = set()
    for end in file.ends:
        if end.index in done or end.index not in own:
            what = "twice" if end.index in done else f"which is not in shard {shard}"
            raise StoreError(f"{file.path} holds comparison {end.index}, {what}: measure this shard anew")
        done.add(end.index)


def _header(files: Sequence[Results]) -> RunHeader:
    """That of the first file, as if it had measured the whole plan on the devices of all."""
    first = files[0].headers[0]
    devices: dict[str, Any] = {}
    for header in (header for file in files for header in file.headers):
        for device in _devices(header):
            devices.setdefault(str(device.get("uuid") or device.get("kind")), device)
    plan = {**first.plan, "shard": None}
    return replace(first, schema=SCHEMA, devices=tuple(devices.values()), plan=plan, resumed=False)
