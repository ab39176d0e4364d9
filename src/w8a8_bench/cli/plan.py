"""What a sweep measures, all of it valid: and what `--resume` compares it with in a file that it continues."""

from __future__ import annotations

from dataclasses import dataclass

from w8a8_bench.bench.plan import digest
from w8a8_bench.problem.comparison import Comparison
from w8a8_bench.problem.formats import Format
from w8a8_bench.timing.settings import Settings

QUICK = "quick_bench"


@dataclass(frozen=True)
class Plan:
    """What the arguments ask for, all of it valid."""

    command: str
    formats: tuple[Format, ...]
    comparisons: tuple[Comparison, ...]
    settings: Settings
    rigor: str

    def to_json(self) -> dict[str, object]:
        """What a results file must have in common with this run, so that `--resume` may go on with it."""
        return {
            "command": self.command,
            "dtypes": [fmt.value for fmt in self.formats],
            "comparisons": len(self.comparisons),
            "cells": digest(self.comparisons),
            "seed": self.settings.seed,
            "data": self.settings.data.value,
            "measures": list(self.settings.measures),
            "rigor": self.rigor,
            "processes": self.settings.processes,
            "duty": self.settings.duty,
        }
