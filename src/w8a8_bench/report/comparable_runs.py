"""Results that may stand side by side: of one device, in one environment, on the same kind of operands."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeGuard

import msgspec

from w8a8_bench.environment.device import Device
from w8a8_bench.results.json_lines import Results
from w8a8_bench.results.measured_comparison import CellKey, MeasuredComparison, cell_key
from w8a8_bench.results.record import Record, RunHeader

UUID = "device uuid"

CHANGING = ("index", "available_bytes", "pci_bus_id")
"""Of a device, what may differ from run to run while it is the same one."""

OPERATING_POINT = ("data", "timer", "duty")
"""Of the settings, what moves times: other runs of the same cells would not agree."""

TELLING = (UUID, *OPERATING_POINT, "torch", "triton", "driver", "git_revision")
"""Of what tells sets apart, what their labels say."""

LARGEST = 1e30
"""Beyond any byte, hertz or watt of a device; larger numbers are somebody's joke, and overflow what is computed."""

Facts = Mapping[str, object]


@dataclass(frozen=True)
class ResultSet:
    """Comparisons that were measured alike, each cell once. Never empty. Comparisons are numbered in the order they
    stand in, since every file numbers its own from 0.

    label     what tells this set from the others, in one line
    headers   of the runs that the comparisons come from
    devices   facts of the device that they were measured on; of several GPUs of one name if these were pooled
    files     names of the files that they were read from
    warnings  what was left out of those files
    """

    label: str
    headers: tuple[RunHeader, ...]
    devices: tuple[Facts, ...]
    comparisons: tuple[MeasuredComparison, ...]
    files: tuple[str, ...]
    warnings: tuple[str, ...]

    @property
    def records(self) -> Iterator[Record]:
        return (record for comparison in self.comparisons for record in comparison.records)

    @property
    def device_name(self) -> str:
        return _device_name(self.devices[0])

    @property
    def device(self) -> Device | None:
        """The first of `devices`; None if the header lacks what a `Device` must have, as a foreign one may."""
        return read_device(self.devices[0])


def read_device(facts: Facts) -> Device | None:
    """The device of a header; fields of later versions are passed over."""
    try:
        return msgspec.convert(facts, Device)
    except msgspec.ValidationError:
        return None


def is_measure(value: object) -> TypeGuard[int | float]:
    """Whether a fact out of a file is a number that can be calculated with."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < LARGEST


def make_sets(results: Sequence[Results], *, pool_gpus: bool = False) -> tuple[ResultSet, ...]:
    """Results that were measured alike, put together, in the order that they were given.

    Alike means the same device (by name and UUID; by name alone if `pool_gpus`), environment, data, timer and duty.
    A run that measures a cell which another one measured begins another set, so that no cell is there twice.
    """
    groups: list[_Group] = []
    for result in results:
        for header, device, comparisons in _parts(result):
            identity = _identity(header, device, CHANGING + (("uuid",) if pool_gpus else ()))
            cells = {cell_key(record) for comparison in comparisons for record in comparison.records}
            fitting = (group for group in groups if group.identity == identity and not group.cells & cells)
            group = next(fitting, None)
            if group is None:
                group = _Group(identity, set(), [], [], [], [], [])
                groups.append(group)
            group.cells |= cells
            group.headers += [header] if header not in group.headers else []
            group.devices += [device] if device not in group.devices else []
            group.comparisons += comparisons
            group.files.append(result.path.name)
            group.warnings += result.warnings
    return tuple(
        ResultSet(
            label,
            tuple(group.headers),
            tuple(group.devices),
            tuple(_numbered(index, one) for index, one in enumerate(group.comparisons)),
            tuple(dict.fromkeys(group.files)),
            tuple(dict.fromkeys(group.warnings)),
        )
        for label, group in zip(_labels(groups), groups, strict=True)
    )


@dataclass
class _Group:
    identity: dict[str, object]
    cells: set[CellKey]
    headers: list[RunHeader]
    devices: list[Facts]
    comparisons: list[MeasuredComparison]
    files: list[str]
    warnings: list[str]


def _parts(results: Results) -> Iterator[tuple[RunHeader, Facts, list[MeasuredComparison]]]:
    """What was measured under each header on each device."""
    parts: dict[tuple[int, str], list[MeasuredComparison]] = {}
    for comparison in results.comparisons:
        parts.setdefault((id(comparison.run), comparison.uuid), []).append(comparison)
    for (_, uuid), comparisons in parts.items():
        header = comparisons[0].run
        named = (device for device in header.devices if device.get("uuid") == uuid)
        yield header, next(named, header.device), comparisons


def _numbered(index: int, comparison: MeasuredComparison) -> MeasuredComparison:
    if comparison.end.index == index:
        return comparison
    records = tuple(msgspec.structs.replace(record, comparison=index) for record in comparison.records)
    return replace(comparison, records=records, end=msgspec.structs.replace(comparison.end, index=index))


def _identity(header: RunHeader, device: Facts, changing: Sequence[str]) -> dict[str, object]:
    """What runs must have in common to stand side by side."""
    lasting = {f"device {name}": value for name, value in device.items() if name not in changing}
    settings = {name: header.settings[name] for name in OPERATING_POINT if name in header.settings}
    return {**lasting, **settings, **header.environment}


def _device_name(device: Facts) -> str:
    return str(device.get("name") or device.get("kind") or "unknown device")


def _labels(groups: Sequence[_Group]) -> list[str]:
    """The device's name, what tells the set from the others, when it began, and its files."""
    identities = [group.identity for group in groups]
    telling = [name for name in TELLING if any(one.get(name) != identities[0].get(name) for one in identities)]
    labels = []
    for group in groups:
        words = [_device_name(group.devices[0])]
        words += [_word(name, group.identity.get(name)) for name in telling]
        words += [group.headers[0].time[:16].replace("T", " "), ", ".join(dict.fromkeys(group.files))]
        labels.append(" · ".join(words))
    return labels


def _word(name: str, value: object) -> str:
    """One fact of a label. Of a UUID the first part is enough for a reader: `GPU-0fc5f694`."""
    text = "unknown" if value is None else str(value)
    return "-".join(text.split("-")[:2]) if name == UUID else f"{name.replace('_', ' ')} {text:.16}"
