"""The parent's hold on one worker process: what is said to it, what it answers, and how it is watched and ended.

The worker leads a session and a process group of its own: Ctrl-C reaches the parent alone, and what a kernel started is
killed with the worker, also when the parent itself is killed. Whatever a kernel does to it, the parent learns from the
worker's end, its silence or its memory.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from msgspec import convert, to_builtins

import w8a8_bench
from w8a8_bench import cache
from w8a8_bench.bench.worker import CLOSED
from w8a8_bench.bench.worker_status import Note, StatusPage
from w8a8_bench.environment.detect import host_memory
from w8a8_bench.environment.device import Device
from w8a8_bench.kernel import Probe, Status
from w8a8_bench.problem.comparison import Cell, Comparison
from w8a8_bench.results.record import ComparisonEnd, Record
from w8a8_bench.timing.settings import DEFAULT_STEP_LIMIT_S, Settings

STDERR_LINES = 5
"""Last lines of a lost worker's error output that go into the reason."""

STDERR_BYTES = 1 << 20
"""Error output that is kept; a kernel that prints more fills no disk."""

LOOK_S = 0.2
"""How often a silent worker is looked at."""

STARTUP_S = 300.0
"""How long a worker may take to say what device it has: loading torch and waking a GPU on a busy machine."""

STARTS = 3
"""How often a worker is started that ends before it has said what device it has."""

ENDING_S = 5.0
"""How long a worker that was killed may take to be gone: a GPU's context is taken down first."""

Progress = Callable[[Comparison, str, str, float], None]


@dataclass(frozen=True)
class WorkerLimits:
    """What a kernel may take before its worker is ended.

    step_s      seconds of one step of a cell: compiling and the first launch, getting ready, one sample; None: no limit
    host_bytes  main memory of the worker process; None: all that is available when it starts, but for a reserve
    """

    step_s: float | None = DEFAULT_STEP_LIMIT_S
    host_bytes: int | None = None


LAUNCH = """\
import sys
sys.path[:] = sys.argv.pop(1).split(":")
from w8a8_bench.bench.worker import main
sys.exit(main(sys.argv[1:]))
"""
"""A worker imports what this process would: with `-m` the working directory came first, whatever lies there."""

SILENCE_S = 600.0
"""How long a worker may do nothing that it tells of outside of kernels, or ten step limits if that is longer: the
oracle takes minutes over a large product on a CPU."""

HOST_RESERVE = 0.05
"""Share of the main memory that a worker must leave: if there is none, the system ends processes of its choice."""


class SweepRefused(ValueError):
    """The sweep can't begin: no torch, no such device, or more memory than there is."""


class WorkerLost(Exception):
    """The worker ended, or was ended, before it answered.

    cell    place in the comparison of the cell whose kernel ran, or ran last; None if none had run
    status  what becomes of that cell
    """

    def __init__(self, reason: str, *, status: Status = Status.CRASHED, cell: int | None = None) -> None:
        super().__init__(reason)
        self.reason, self.status, self.cell = reason, status, cell


class Worker:
    """A worker process, started for one device. Use as a context manager: leaving it ends the process."""

    def __init__(self, wanted: str, limits: WorkerLimits | None = None) -> None:
        self._wanted = wanted
        self._limits = limits or WorkerLimits()
        try:
            self._status = StatusPage()
            self._errors = tempfile.TemporaryFile()  # noqa: SIM115  closed in __exit__
        except OSError as error:
            where = tempfile.tempdir or "any usual directory"
            raise SweepRefused(
                f"no temporary file can be written in {where}: {error.strerror}; TMPDIR names another directory"
            ) from None
        # Appending, whoever writes, so that it can be cut while the worker writes on.
        fcntl.fcntl(self._errors, fcntl.F_SETFL, fcntl.fcntl(self._errors, fcntl.F_GETFL) | os.O_APPEND)
        self._closed = False
        self._start()

    def _start(self) -> None:
        source = str(Path(w8a8_bench.__file__).resolve().parents[1])
        paths = [source, *filter(None, [os.environ.get("PYTHONPATH")])]
        searched = os.pathsep.join(dict.fromkeys([source, *sys.path]))
        self._hello: dict[str, object] | None = None
        self._received = b""
        self._status.clear()
        self._noted, self._since = self._status.read().number, time.monotonic()
        self._heard = self._since
        total, available = host_memory()
        self._host_bytes = self._limits.host_bytes or max(int(available - HOST_RESERVE * total), available // 2)
        self._started = time.monotonic()
        read_end, write_end = os.pipe()
        self._lifeline = os.fdopen(write_end, "wb")
        self._process = subprocess.Popen(
            [sys.executable, "-c", LAUNCH, searched, self._wanted, str(self._status.descriptor)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            pass_fds=(self._status.descriptor, read_end),
            start_new_session=True,
            env={
                **os.environ,
                **cache.library_environment(),
                "PYTHONPATH": os.pathsep.join(paths),
                "PYTHONIOENCODING": "utf-8",
            },
        )
        _kill_when_closed(read_end, self._process.pid)
        os.close(read_end)

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *raised: object) -> None:
        self._closed = True
        self._end()
        self._errors.close()
        self._status.close()

    def hello(self) -> tuple[Device, dict[str, object]]:
        """The device and the environment, as the worker found them. A worker that is lost before it says so, is started
        again, `STARTS` times in all. Raises SweepRefused if it found none, and WorkerLost.
        """
        for start in range(1, STARTS + 1):
            try:
                return self._greeted()
            except WorkerLost:
                if start == STARTS or self._closed or time.monotonic() - self._started > STARTUP_S:
                    raise
                self._start_again()
        raise AssertionError("the last start returns or raises")

    def _greeted(self) -> tuple[Device, dict[str, object]]:
        if self._hello is None:
            message = self._receive()
            if message["kind"] == "refused":
                raise SweepRefused(str(message["reason"]))
            self._hello = message
        device, environment = self._hello["device"], self._hello["environment"]
        assert isinstance(device, dict) and isinstance(environment, dict)
        return convert(device, Device), environment

    @property
    def gpus(self) -> int:
        """How many GPUs the worker sees."""
        self.hello()
        assert self._hello is not None
        return int(str(self._hello["gpus"]))

    def restart(self) -> None:
        """Begin anew after a loss; the device must still be there. Raises WorkerLost if this worker was left."""
        if self._closed:
            raise WorkerLost("the sweep has ended")
        self._start_again()
        self.hello()

    def _start_again(self) -> None:
        self._end()
        self._cut_errors(0)
        self._start()

    def run(self, comparison: Comparison, settings: Settings, progress: Progress) -> tuple[list[Record], ComparisonEnd]:
        """Have the worker run `comparison`. Raises WorkerLost, with the reason, if it ends before it answers."""
        self._begin({"comparison": to_builtins(comparison), "settings": to_builtins(settings)})
        while True:
            message = self._receive()
            if message["kind"] == "progress":
                progress(comparison, str(message["phase"]), str(message["what"]), float(str(message["done"])))
                continue
            if message["kind"] == "lost":
                raise WorkerLost(str(message["reason"]), cell=self._status.read().last)
            records, end = message["records"], message["end"]
            assert isinstance(records, list) and isinstance(end, dict)
            return [convert(record, Record) for record in records], convert(end, ComparisonEnd)

    def self_test(
        self, *, duty: float, seed: int, progress: Callable[[str, float], None]
    ) -> Iterator[dict[str, object]]:
        """Have the worker test its timing: one verdict after another, as objects. Raises WorkerLost."""
        self._heard = time.monotonic()
        self._say({"self_test": {"duty": duty, "seed": seed}})
        while (message := self._receive())["kind"] != "tested":
            if message["kind"] == "progress":
                progress(str(message["what"]), float(str(message["done"])))
            else:
                yield message

    def ask(self, questions: Sequence[Mapping[str, object]]) -> Iterator[str | Probe]:
        """Have the worker answer what it is asked about providers (Probe) and kernels (text). Raises WorkerLost."""
        self._begin({"questions": [dict(question) for question in questions]})
        while (message := self._receive())["kind"] == "answer":
            probe = message.get("probe")
            yield Probe(**probe) if isinstance(probe, dict) else str(message["text"])

    def builds_of(self, cells: Sequence[Cell]) -> Iterator[Mapping[str, Any]]:
        """What each cell needs that needs a build: the fields of `builds.Build`. Raises WorkerLost."""
        self._begin({"cells": to_builtins(tuple(cells))})
        while (message := self._receive())["kind"] == "build":
            yield message

    def build(self, cell: Cell, name: str) -> tuple[Status, str]:
        """Have the worker compile what `cell` needs: the status, with a reason unless it is OK. Raises WorkerLost."""
        self._begin({"build": name, "cell": to_builtins(cell)})
        message = self._receive()
        return Status(message["status"]), str(message["reason"])

    def _begin(self, request: dict[str, object]) -> None:
        self._status.clear()
        self._heard = time.monotonic()
        self._say(request)

    def _say(self, message: dict[str, object]) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write((json.dumps(message) + "\n").encode())
            self._process.stdin.flush()
        except (BrokenPipeError, ValueError):
            raise self._lost() from None

    def _receive(self) -> dict[str, object]:
        """The next message. Raises WorkerLost if there is none, or over a limit."""
        while b"\n" not in self._received:
            if not self._read():
                raise self._lost()
            self._watch()
        line, _, self._received = self._received.partition(b"\n")
        try:
            message = json.loads(line)
        except ValueError:
            message = None
        if not isinstance(message, dict) or "kind" not in message:
            raise self._lost(f"the worker answered with what is no message: {line[:60]!r}")
        return message

    def _read(self) -> bool:
        """Wait a little for output; whether the worker can still give some."""
        assert self._process.stdout is not None
        if self._process.stdout.closed:
            return False  # it was lost before, and ended
        pipe = self._process.stdout.fileno()
        gone = self._process.poll() is not None  # asked first, so that its last words are still read
        poll = select.poll()
        poll.register(pipe, select.POLLIN)
        if poll.poll(0 if gone else 1000 * LOOK_S):
            chunk = os.read(pipe, 1 << 16)
            self._received += chunk
            self._heard = time.monotonic()
            return bool(chunk)
        return not gone  # a process that a kernel forked may hold the pipe open

    def _watch(self) -> None:
        """End the worker and raise WorkerLost if its kernel takes more than the limits allow."""
        note, now = self._status.read(), time.monotonic()
        if note.number != self._noted:
            self._noted, self._since = note.number, now
        step_s = self._limits.step_s
        if note.cell is not None and step_s is not None and now - self._since > step_s:
            raise self._lost(f"{note.step} took over {step_s:g} s (--step-limit)", status=Status.TIMED_OUT)
        silent_s = max(SILENCE_S, 10 * step_s) if step_s is not None else None
        if self._hello is not None and silent_s is not None and now - max(self._since, self._heard) > silent_s:
            raise self._lost(f"the worker did and said nothing for {silent_s:g} s, outside of any kernel")
        held = _resident_bytes(self._process.pid)
        if held > self._host_bytes:
            raise self._lost(
                f"the worker held {held / 2**30:.1f} GiB of main memory, of {self._host_bytes / 2**30:.1f} available"
                f"{_where(note)}",
                status=Status.OUT_OF_MEMORY,
            )
        if self._hello is None and now - self._started > STARTUP_S:
            raise self._lost(f"the worker did not start within {STARTUP_S:g} s")
        if os.fstat(self._errors.fileno()).st_size > STDERR_BYTES:
            self._cut_errors(STDERR_BYTES // 4)

    def _cut_errors(self, keep: int) -> None:
        """Forget all but the last `keep` bytes of the error output."""
        kept = self._last_errors(keep)
        self._errors.truncate(0)
        self._errors.write(kept)
        self._errors.flush()

    def _last_errors(self, size: int) -> bytes:
        self._errors.seek(max(os.fstat(self._errors.fileno()).st_size - size, 0))
        return self._errors.read(size)

    def _lost(self, reason: str = "", *, status: Status = Status.CRASHED) -> WorkerLost:
        """End what is left of the worker and say what happened."""
        note = self._status.read()
        if reason:
            self._end()
        else:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(ENDING_S)  # its output is closed: it is ending, or will be ended
            code = self._process.poll()
            self._end()
            how = "its output closed" if code is None else f"exit code {code}"
            if code == CLOSED:
                how = "its pipes to the benchmark closed by a kernel"
            if code is not None and code < 0:
                how = f"signal {signal.Signals(-code).name}"
            reason = f"the worker ended with {how}{_where(note)}"
        lines = self._last_errors(STDERR_BYTES).decode(errors="replace").strip().splitlines()[-STDERR_LINES:]
        said = " | ".join("".join(char if char.isprintable() else " " for char in line).strip() for line in lines)
        return WorkerLost(
            reason + (f": {said}" if said else ""), status=status, cell=note.last if note.cell is None else note.cell
        )

    def kill(self) -> None:
        """Kill the worker and what it started in its process group, without waiting for the end."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def _end(self) -> None:
        self.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(ENDING_S)
        for pipe in (self._process.stdin, self._process.stdout, self._lifeline):
            if pipe:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()


def _kill_when_closed(read_end: int, group: int) -> None:
    """Have Linux kill a process group when the write end of a pipe is closed, as it is if this process is killed.

    The process group must hold the read end. PR_SET_PDEATHSIG would kill the worker alone, and not what it started.
    """
    fcntl.fcntl(read_end, fcntl.F_SETOWN, -group)
    fcntl.fcntl(read_end, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(read_end, fcntl.F_SETFL, os.O_ASYNC)


def _where(note: Note) -> str:
    """In which step of a kernel, or after which one."""
    if note.step is None:
        return ""
    return f" {'after' if note.cell is None else 'in'} {note.step}"


def _resident_bytes(process_id: int) -> int:
    """Main memory that a process holds; 0 if it has ended or this system does not say."""
    try:
        fields = Path(f"/proc/{process_id}/statm").read_text(encoding="ascii").split()
    except OSError:
        return 0
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE") if len(fields) > 1 else 0
