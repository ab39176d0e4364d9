"""The state of a GPU while a comparison is timed: looked at after every sample, kept by block."""

from __future__ import annotations

import os
from collections.abc import Iterable

from w8a8_bench.environment.device import Device
from w8a8_bench.environment.telemetry import SLOWDOWNS, Snapshot, Telemetry, TelemetryUnavailable


class Watch:
    """Looks at one GPU while blocks are timed. Use as a context manager.

    `workers` is how many processes of this run have a context on the GPU. Work of any other process is in the times.
    """

    def __init__(self, device: Device, *, workers: int = 1) -> None:
        self._telemetry: Telemetry | None = None
        self._why_none = ""
        try:
            self._telemetry = Telemetry.open(device)
        except TelemetryUnavailable as error:
            self._why_none = str(error)
        self._workers = workers
        self._looks: list[Snapshot] = []
        self._blocks: list[dict[str, object]] = []
        self._slowdowns: list[str] = []
        self._others: int | None = None
        self._count_others()

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *raised: object) -> None:
        self._count_others()
        if self._telemetry:
            self._telemetry.close()

    def begin(self) -> None:
        """Forget what was seen: the blocks begin."""
        self._looks, self._blocks, self._slowdowns = [], [], []

    def look(self) -> Snapshot | None:
        """The state at this moment; None if there is no telemetry."""
        if self._telemetry is None:
            return None
        snapshot = self._telemetry.snapshot()
        self._looks.append(snapshot)
        return snapshot

    def end_block(self) -> bool:
        """Close a block. True if the block is void, because heat or the hardware slowed the GPU down."""
        looks, self._looks = self._looks, []
        if not looks:
            return False
        throttle = tuple(dict.fromkeys(reason for look in looks for reason in look.throttle or ()))
        slowdowns = [reason for reason in throttle if reason in SLOWDOWNS]
        self._slowdowns += slowdowns
        self._blocks.append(
            {
                "power_w": max(_known(look.power_w for look in looks), default=None),
                "temperature_c": max(_known(look.temperature_c for look in looks), default=None),
                "memory_clock_mhz": min(_known(look.memory_clock_mhz for look in looks), default=None),
                "throttle": list(throttle),
                "void": bool(slowdowns),
            }
        )
        return bool(slowdowns)

    def why_void(self) -> str:
        """In one line, why no block counted."""
        return f"every block was void: the GPU slowed down ({', '.join(dict.fromkeys(self._slowdowns))})"

    def to_json(self) -> dict[str, object]:
        """What goes into the records: the blocks in the order they were taken, void ones too.

        `other_processes` is the largest number that was seen, before or after; null if NVML does not say.
        """
        if self._telemetry is None:
            return {"telemetry": f"unavailable: {self._why_none}"}
        facts: dict[str, object] = {"telemetry": "NVML", "blocks": self._blocks, "other_processes": self._others}
        if self._telemetry.errors:
            facts["errors"] = dict(self._telemetry.errors)
        return facts

    def _count_others(self) -> None:
        """Note how many other processes there are, if they are more than before."""
        if self._telemetry is None:
            return
        others = self._telemetry.other_processes([os.getpid()])
        if others is not None:
            # NVML lists this process and the run's other workers alike; only this one's number is known here.
            self._others = max(self._others or 0, others - (self._workers - 1))


def _known(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None]
