"""Results that may stand side by side: of one device, in one environment, on the same kind of operands."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields

from w8a8_bench.comparison import Cell
from w8a8_bench.device import Device
from w8a8_bench.record import ComparisonEnd, Record, RunHeader
from w8a8_bench.store import Results

CHANGING = ("index", "available_bytes", "pci_bus_id")
"""Of a device, what may differ from run to run while it is the same one."""

OPERATING_POINT = ("data", "timer", "duty")
"""Of the settings, what moves times: other runs of the same cells would not agree."""

UUID = "device uuid"
TELLING = (UUID, *OPERATING_POINT, "torch", "triton", "driver", "git_revision")
"""Of what tells sets apart, what their labels say; the page shows the rest."""


@dataclass(frozen=True)
class Comparison:
    """The records of one comparison and the line that closed it."""

    records: tuple[Record, ...]
    end: ComparisonEnd


@dataclass(frozen=True)
class ResultSet:
    """Comparisons that were measured alike, each cell once. `files` and `warnings` are of the files they came in."""

    label: str
    headers: tuple[RunHeader, ...]
    comparisons: tuple[Comparison, ...]
    files: tuple[str, ...]
    warnings: tuple[str, ...]

    @property
    def records(self) -> Iterator[Record]:
        return (record for comparison in self.comparisons for record in comparison.records)

    @property
    def device(self) -> Device | None:
        """None where the header lacks what a `Device` must have, as those of schema 1 may."""
        return read_device(self.headers[0].device)


def read_device(facts: Mapping[str, object]) -> Device | None:
    """The device of a header; fields of later versions are passed over."""
    known = {field.name: field for field in fields(Device)}
    if any(field.default is MISSING and name not in facts for name, field in known.items()):
        return None
    return Device.from_json({name: value for name, value in facts.items() if name in known})


def make_sets(results: Sequence[Results]) -> tuple[ResultSet, ...]:
    """Results put together where they were measured alike, in the order that they were given.

    Alike means the same device (by name and UUID), environment, data, timer and duty. A run that measures a cell again
    begins another set, so that no cell is there twice.
    """
    groups: list[_Group] = []
    for result in results:
        for header, comparisons in _runs(result):
            identity = _identity(header)
            cells = {_cell(record) for comparison in comparisons for record in comparison.records}
            fitting = (group for group in groups if group.identity == identity and not group.cells & cells)
            group = next(fitting, None)
            if group is None:
                group = _Group(identity, set(), [], [], [], [])
                groups.append(group)
            group.cells |= cells
            group.headers.append(header)
            group.comparisons += comparisons
            group.files.append(result.path.name)
            group.warnings += result.warnings
    labels = _labels(groups)
    return tuple(
        ResultSet(
            label,
            tuple(group.headers),
            tuple(group.comparisons),
            tuple(dict.fromkeys(group.files)),
            tuple(dict.fromkeys(group.warnings)),
        )
        for label, group in zip(labels, groups, strict=True)
    )


@dataclass
class _Group:
    identity: dict[str, object]
    cells: set[tuple[object, ...]]
    headers: list[RunHeader]
    comparisons: list[Comparison]
    files: list[str]
    warnings: list[str]


def _runs(results: Results) -> Iterator[tuple[RunHeader, list[Comparison]]]:
    """Each header that anything was measured under, with its comparisons."""
    by_run: dict[int, list[Comparison]] = {}
    start = 0
    for end, run in zip(results.ends, results.runs, strict=True):
        records = results.records[start : start + end.cells]
        by_run.setdefault(run, []).append(Comparison(records, end))
        start += end.cells
    for run, comparisons in by_run.items():
        yield results.headers[run], comparisons


def _cell(record: Record) -> tuple[object, ...]:
    return (Cell(record.kernel, record.problem), tuple(sorted((name, str(v)) for name, v in record.labels.items())))


def _identity(header: RunHeader) -> dict[str, object]:
    """What runs must have in common to stand side by side, by names that a reader knows."""
    device = {f"device {name}": value for name, value in header.device.items() if name not in CHANGING}
    settings = {name: header.settings[name] for name in OPERATING_POINT if name in header.settings}
    return {**device, **settings, **header.environment}


def _labels(groups: Sequence[_Group]) -> list[str]:
    """The device's name, what tells the set from the others, when it began, and its files."""
    identities = [group.identity for group in groups]
    telling = [name for name in TELLING if any(one.get(name) != identities[0].get(name) for one in identities)]
    labels = []
    for group in groups:
        device, first = group.headers[0].device, group.headers[0]
        words = [str(device.get("name") or device.get("kind", "unknown device"))]
        words += [_word(name, group.identity.get(name)) for name in telling]
        words += [first.time[:16].replace("T", " "), ", ".join(dict.fromkeys(group.files))]
        labels.append(" · ".join(words))
    return labels


def _word(name: str, value: object) -> str:
    text = "unknown" if value is None else str(value)
    return text.partition("-")[2].partition("-")[0] or text if name == UUID else f"{name} {text:.24}"
