"""What two runs were taken under: what must agree for their times to be compared, and what else differs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from w8a8_bench.measures import TIME_HOST, Timer
from w8a8_bench.record import Record, RunHeader
from w8a8_bench.report.pairing import Pairing
from w8a8_bench.store import Results

OPERATING_POINT = ("device", "data", "timer", "duty")
MUST_AGREE = (*OPERATING_POINT, "seed", "measures")
"""Another of these is another question. Measures too: an H200 took up to 5% longer over the same code with others."""

WHAT_BASELINES_ARE = (*OPERATING_POINT, "torch", "torch_cuda", "driver", "power_limit_w", "cpu", "cpu_threads")
"""Where these agree, a 16-bit product of PyTorch is the same work in both runs."""

OF_SCHEMA_1 = {"timer": Timer.HOST.value, "measures": TIME_HOST}
"""What files that don't say were taken by."""

UNKNOWN = "unknown"


@dataclass(frozen=True)
class Difference:
    """A condition that is another one; `refused` where times are not comparable for that."""

    name: str
    base: str
    new: str
    refused: bool

    def __str__(self) -> str:
        return f"{self.name} {self.base} -> {self.new}"


def differences(base: Results, new: Results, pairing: Pairing) -> tuple[Difference, ...]:
    """What must agree first. Where a run was resumed under other conditions, it has them all."""
    ours, theirs = _conditions(base.headers), _conditions(new.headers)
    found = [
        Difference(name, ours.get(name, UNKNOWN), theirs.get(name, UNKNOWN), name in MUST_AGREE)
        for name in dict.fromkeys([*ours, *theirs])
        if ours.get(name) != theirs.get(name)
    ]
    cards = [(_card(base, pair.cells[0][0]), _card(new, pair.cells[0][1])) for pair in pairing.shapes]
    others = [card for card in cards if card[0] != card[1]]
    if len(set(others)) == 1 and len(others) == len(cards):
        found.insert(0, Difference("card", others[0][0], others[0][1], refused=True))
    elif others:
        n = f"{len(others)} of {len(cards)} shapes"
        found.insert(0, Difference(f"card of {n}", "one", "another", refused=True))
    return tuple(found)


def anchored(found: Iterable[Difference]) -> bool:
    """Whether the 16-bit baselines are the same code under the same conditions in both runs."""
    return not any(one.name in WHAT_BASELINES_ARE for one in found)


def _conditions(headers: Sequence[RunHeader]) -> dict[str, str]:
    """Each condition, with all values that it has over `headers`."""
    values: dict[str, dict[str, None]] = {}
    for header in headers:
        settings = {**OF_SCHEMA_1, **header.settings}
        facts: dict[str, object] = {"device": header.device.get("name", header.device.get("kind"))}
        facts |= {name: settings[name] for name in MUST_AGREE if name in settings}
        facts |= {name: header.plan[name] for name in ("rigor", "processes") if name in header.plan}
        for name, value in {**facts, **header.facts}.items():
            values.setdefault(name, {})[_text(value)] = None
    return {name: ", ".join(found) for name, found in values.items()}


def _text(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def _card(results: Results, record: Record) -> str:
    """The GPU that took a record. In files that hold one device, their header names it."""
    device = results.headers[0].device
    return record.device or str(device.get("uuid") or device.get("kind"))
