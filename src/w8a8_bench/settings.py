"""How a comparison is measured: what the parent decides and the process that owns the device obeys."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

from w8a8_bench.data import Data
from w8a8_bench.stats import half_width


@dataclass(frozen=True)
class StopRule:
    """When a comparison ends: every cell's 95% interval is within `target` (half width over median), or time is up."""

    min_blocks: int = 12
    max_blocks: int = 40
    target: float = 0.005

    def settled(self, samples: Sequence[float]) -> bool:
        width = half_width(samples)
        return width is not None and width <= self.target


@dataclass(frozen=True)
class Settings:
    """`budget_s` is wall time for the whole of one comparison, checks included; None for no limit."""

    seed: int = 0
    data: Data = Data.NORMAL
    budget_s: float | None = None
    stop: StopRule = field(default_factory=StopRule)

    def to_json(self) -> dict[str, object]:
        return {"seed": self.seed, "data": self.data.value, "budget_s": self.budget_s, "stop": asdict(self.stop)}

    @classmethod
    def from_json(cls, data: Mapping[str, object]) -> Settings:
        stop, budget = data["stop"], data["budget_s"]
        if not isinstance(stop, Mapping):
            raise ValueError(f"stop {stop!r}: expected an object")
        return cls(
            seed=int(str(data["seed"])),
            data=Data(str(data["data"])),
            budget_s=None if budget is None else float(str(budget)),
            stop=StopRule(**stop),
        )
