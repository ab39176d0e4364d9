"""What two runs were taken under: what must agree for their times to be compared, and what else differs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from w8a8_bench.analysis.pairing import Pairing
from w8a8_bench.results.json_lines import Results
from w8a8_bench.results.record import RunHeader
from w8a8_bench.timing.measures import TIME_HOST, Timer

OPERATING_POINT = ("device", "data", "timer", "duty")
MUST_AGREE = (*OPERATING_POINT, "seed", "measures")
"""Another of these is another question. Measures too: an H200 took up to 5% longer over the same code with others."""

WHAT_BASELINES_ARE = (*OPERATING_POINT, "torch", "torch_cuda", "driver", "power_limit_w", "cpu", "cpu_threads")
"""If these agree, a 16-bit product of PyTorch is the same work in both runs."""

OF_SCHEMA_1 = {"timer": Timer.HOST.value, "measures": TIME_HOST}
"""What files that don't say were taken by."""

UNKNOWN = "unknown"


@dataclass(frozen=True)
class ChangedCondition:
    """A condition that differs between the runs; `refused` if their times can't be compared because of it."""

    name: str
    base: str
    new: str
    refused: bool

    def __str__(self) -> str:
        return f"{self.name} {self.base} -> {self.new}"


def differences(base: Results, new: Results, pairing: Pairing) -> tuple[ChangedCondition, ...]:
    """What must agree comes first. If a run was resumed under other conditions, it has all of them."""
    ours, theirs = _conditions(base.headers), _conditions(new.headers)
    found = [
        ChangedCondition(name, ours.get(name, UNKNOWN), theirs.get(name, UNKNOWN), name in MUST_AGREE)
        for name in dict.fromkeys([*ours, *theirs])
        if ours.get(name) != theirs.get(name)
    ]
    others = [(pair.base.card, pair.new.card) for pair in pairing.shapes if not pair.same_card]
    everywhere = len(others) == len(pairing.shapes)
    if len(set(others)) == 1 and everywhere:
        found.insert(0, ChangedCondition("card", *others[0], refused=True))
    elif others:  # when GPUs share the shapes, some may go to another GPU each time: `compare` judges the rest
        n = f"{len(others)} of {len(pairing.shapes)} shapes"
        found.insert(0, ChangedCondition(f"card of {n}", "one", "another", refused=everywhere))
    return tuple(found)


def anchored(found: Iterable[ChangedCondition]) -> bool:
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
