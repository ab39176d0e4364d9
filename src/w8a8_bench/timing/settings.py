"""How a comparison is measured: what the parent decides and the process that owns the device obeys."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from msgspec import Struct
from msgspec.structs import replace

from w8a8_bench.problem.distribution import Distribution
from w8a8_bench.problem.memory import MAX_SETS
from w8a8_bench.stats import half_width
from w8a8_bench.timing.measures import TIME_HOST, TIME_KERNEL, Timer, headline


class StopRule(Struct, frozen=True):
    """When a comparison ends: every cell's 95% interval is within `target` (half width over median), or time is up.

    Asked after every block from `min_blocks` on: `stats.interval` allows for that.
    """

    min_blocks: int = 12
    max_blocks: int = 40
    target: float = 0.005

    def settled(self, samples: Sequence[float]) -> bool:
        width = half_width(samples)
        return width is not None and width <= self.target


class Rigor(Struct, frozen=True):
    """How exact a comparison is to be: `stop` ends each of its `processes`, which are fresh ones."""

    stop: StopRule
    processes: int = 1


RIGORS: Mapping[str, Rigor] = MappingProxyType(
    {
        "quick": Rigor(StopRule(min_blocks=6, max_blocks=12, target=0.01)),
        "standard": Rigor(StopRule(min_blocks=12, max_blocks=40, target=0.005)),
        "publish": Rigor(StopRule(min_blocks=30, max_blocks=200, target=0.0025), processes=5),
    }
)
"""Changing a rule asks for `stats.NOMINAL` to be checked: tests/unit/timing/test_stopping.py."""

DEFAULT_RIGOR = "standard"
DEFAULT_DUTY = 0.5

DEFAULT_BUDGET_S = 60.0
CELL_BUDGET_S = 1.0
"""A GPU rests as long as it works, so that a sample of 5 ms takes 10 ms: 40 blocks of a cell and of its two parts, with
activations quantized inside, take 1.2 s, and most cells have no parts and settle sooner."""


CPU_BUDGET_S = 5.0
"""Time for the blocks of a comparison on a CPU, after which none is begun. 40 blocks of small GEMMs, whose samples last
5 ms, take less than that. Launches of a second are timed once."""


DEFAULT_STEP_LIMIT_S = 120.0


class Settings(Struct, frozen=True):
    """What is timed, and how well.

    budget_s   wall time for the whole of one comparison in one process, checks included; None for no limit
    may_skip   whether cells are skipped once the budget is spent; else it only ends the timing, after a first block
    measures   what is sampled, by the names of `measures`
    duty       share of the time that a GPU works while it is timed: 0.5 rests as long as it worked, 1 never rests
    processes  fresh processes that measure each comparison; with more than one they are the random effect
    process    which of them this is: each shuffles its blocks in an order of its own
    workers    how many processes of this run are on the device, so that others can be told from them
    most_sets  of operands in a rotation: fewer than it wants if memory is short
    """

    seed: int = 0
    data: Distribution = Distribution.NORMAL
    budget_s: float | None = None
    may_skip: bool = True
    stop: StopRule = StopRule()
    timer: Timer = Timer.HOST
    measures: tuple[str, ...] = (TIME_HOST,)
    duty: float = DEFAULT_DUTY
    processes: int = 1
    process: int = 0
    workers: int = 1
    most_sets: int = MAX_SETS

    @property
    def headline(self) -> str:
        """The measure that decides when a comparison ends."""
        name = headline(self.measures)
        assert name is not None, "settings name at least one measure"
        return name

    def with_default_budget(self, cells: int, *, cuda: bool) -> Settings:
        """These settings with the budget of a comparison of up to `cells` for which none was asked."""
        if cuda:
            return replace(self, budget_s=max(DEFAULT_BUDGET_S, CELL_BUDGET_S * cells), may_skip=True)
        return replace(self, budget_s=CPU_BUDGET_S, may_skip=False)

    def passes(self) -> tuple[Settings, ...]:
        """One for each process that the measures need: the profiler slows what is timed after it."""
        if TIME_KERNEL not in self.measures or len(self.measures) == 1:
            return (self,)
        rest = tuple(measure for measure in self.measures if measure != TIME_KERNEL)
        return replace(self, measures=rest), replace(self, measures=(TIME_KERNEL,))
