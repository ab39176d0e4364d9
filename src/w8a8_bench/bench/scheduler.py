"""The parent's side of a sweep: deals comparisons out to the devices and records what becomes of each. Touches none."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from types import MappingProxyType

from w8a8_bench.bench.device_workers import Finished, Workers
from w8a8_bench.bench.process import LOOK_S, Progress, SweepRefused, WorkerLost
from w8a8_bench.bench.retry import FailureCounts, measure_with_retries
from w8a8_bench.kernel import Status
from w8a8_bench.problem.comparison import Cell, Comparison
from w8a8_bench.results.record import Record
from w8a8_bench.timing.settings import Settings

NOTHING: Mapping[Cell, tuple[Status, str]] = MappingProxyType({})


def run_sweep(
    devices: Sequence[Workers],
    comparisons: Sequence[Comparison],
    settings: Settings,
    *,
    progress: Progress,
    finished: Callable[[Finished], None],
    said: Callable[[str], None] = lambda line: None,
    before: Iterable[Record] = (),
    broken: Mapping[Cell, tuple[Status, str]] = NOTHING,
    every: int = 1,
) -> None:
    """Run `comparisons`, each whole on one of `devices`, in order if there is one.

    Of several, each has a share that the plan alone decides, so that two sweeps measure most shapes on the same GPU
    after the same others, and can be compared; a device that is done takes over what is left of the others' shares.
    `comparisons` are taken from every `every`-th of a plan.

    Every callback is called in this thread: `progress` while cells are measured, `finished` with each comparison, and
    `said` with what the user should know meanwhile. `before` are the records of the sweep that this one goes on with,
    and `broken` the cells that are known to be broken, with status and reason. Raises what callbacks raise, and
    SweepRefused or WorkerLost if a device is gone for good.
    """
    failures = FailureCounts(before, broken)
    scheduler = _Scheduler(comparisons, every, len(devices), settings, failures, progress, finished, said)
    for share, workers in enumerate(devices):
        threading.Thread(target=scheduler.work, args=(workers, share), daemon=True).start()
    scheduler.serve()


class _Scheduler:
    """Hands comparisons to devices, each in a thread of its own, and what comes back to the thread that serves."""

    def __init__(
        self,
        comparisons: Sequence[Comparison],
        every: int,
        devices: int,
        settings: Settings,
        failures: FailureCounts,
        progress: Progress,
        finished: Callable[[Finished], None],
        said: Callable[[str], None],
    ) -> None:
        self._shares: list[deque[Comparison]] = [deque() for _ in range(devices)]
        for comparison in comparisons:
            self._shares[comparison.index // every % devices].append(comparison)
        self._settings, self._failures = settings, failures
        self._progress, self._finished, self._said = progress, finished, said
        self._events: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._changed = threading.Condition()
        self._in_hand = 0
        self._working = devices
        self._gone: BaseException | None = None

    def serve(self) -> None:
        """Call what the devices' threads ask for until they have ended. Raises what made a device be given up."""
        while self._working:
            try:
                event = self._events.get(timeout=LOOK_S)
            except queue.Empty:
                continue  # a signal that came just before the wait began does not end it; it is served here
            event()
        if self._gone is not None and any(self._shares):
            raise self._gone

    def work(self, workers: Workers, share: int) -> None:
        """In a device's own thread: one comparison after another."""
        try:
            while comparison := self._next(share):
                try:
                    result = measure_with_retries(
                        workers, comparison, self._settings, self._failures, progress=self._tell, said=self._say
                    )
                except (SweepRefused, WorkerLost):
                    self._put_back(comparison, share)  # for another device, or for the next run
                    raise
                # Waited for, so that printing and writing are not beside what is timed next.
                done = threading.Event()
                self._events.put(partial(self._ended_comparison, result, done))
                done.wait()
        except BaseException as error:
            self._events.put(partial(self._ended, error))
        else:
            self._events.put(partial(self._ended, None))

    def _next(self, share: int) -> Comparison | None:
        """The next comparison of a share, or the last of the longest; waited for while another device's may come back.

        None if all are done.
        """
        with self._changed:
            self._changed.wait_for(lambda: any(self._shares) or not self._in_hand)
            if not any(self._shares):
                return None
            self._in_hand += 1
            own = self._shares[share]
            return own.popleft() if own else max(self._shares, key=len).pop()

    def _put_back(self, comparison: Comparison, share: int) -> None:
        with self._changed:
            self._shares[share].appendleft(comparison)
            self._in_hand -= 1
            self._changed.notify_all()

    def _ended_comparison(self, result: Finished, done: threading.Event) -> None:
        self._finished(result)
        for line in self._failures.note(result.records):
            self._said(line)
        with self._changed:
            self._in_hand -= 1
            self._changed.notify_all()
        done.set()

    def _ended(self, error: BaseException | None) -> None:
        """A device is done, or is given up for `error`."""
        if error is not None and not isinstance(error, SweepRefused | WorkerLost):
            raise error
        self._working -= 1
        if error is not None:
            self._gone = error
            if self._working:
                self._said(f"a device is given up, and the others go on: {error}")

    def _tell(self, comparison: Comparison, phase: str, what: str, done: float) -> None:
        self._events.put(partial(self._progress, comparison, phase, what, done))

    def _say(self, line: str) -> None:
        self._events.put(partial(self._said, line))
