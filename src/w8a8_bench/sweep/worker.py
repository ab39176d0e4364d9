"""The process that owns a device: it takes comparisons, one JSON line each, and answers in JSON lines.

    python -m w8a8_bench.sweep.worker DEVICE

Requests come on standard input: `{"comparison": ..., "settings": ...}`. Answers go to what was standard output, which
is then pointed at standard error, so that a kernel that prints can't be taken for the worker:

    {"kind": "hello", "device": ..., "environment": ...}   once, at the start
    {"kind": "refused", "reason": ...}                     instead of it: no such device, or no torch
    {"kind": "progress", "phase": ..., "what": ..., "done": 0..1}
    {"kind": "done", "records": [...], "end": ...}
    {"kind": "verdict", ...}                               one for each part of a self-test, and then
    {"kind": "tested"}

`{"self_test": {"duty": ..., "seed": ...}}` asks for the self-test of the timing instead of a comparison.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from w8a8_bench.device import Device
    from w8a8_bench.runner import Progress

PR_SET_PDEATHSIG = 1
NO_TORCH = "torch is not installed: pip install 'w8a8-bench[cpu]', or 'w8a8-bench[cu13]' for a GPU with CUDA 13"


def main(argv: list[str]) -> int:
    _die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides what it means
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    try:
        import torch  # noqa: F401
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        _send(answers, {"kind": "refused", "reason": NO_TORCH})
        return 0
    return _serve(argv[0], answers)


def _serve(wanted: str, answers: TextIO) -> int:
    from w8a8_bench import environment
    from w8a8_bench.comparison import Comparison
    from w8a8_bench.providers import registry
    from w8a8_bench.runner import run_comparison
    from w8a8_bench.settings import Settings

    try:
        device = environment.resolve_device(wanted)
    except environment.DeviceError as error:
        _send(answers, {"kind": "refused", "reason": str(error)})
        return 0
    facts = {**environment.describe(device), "providers": registry.versions()}
    _send(answers, {"kind": "hello", "device": device.to_json(), "environment": facts})

    def progress(phase: str, what: str, done: float) -> None:
        _send(answers, {"kind": "progress", "phase": phase, "what": what, "done": done})

    for line in sys.stdin:
        request = json.loads(line)
        if "self_test" in request:
            _test(device, request["self_test"], progress, answers)
            continue
        records, end = run_comparison(
            Comparison.from_json(request["comparison"]),
            device,
            Settings.from_json(request["settings"]),
            progress=progress,
        )
        _send(answers, {"kind": "done", "records": [r.to_json() for r in records], "end": end.to_json()})
    return 0


def _test(device: Device, options: Mapping[str, Any], progress: Progress, answers: TextIO) -> None:
    from w8a8_bench.timing import self_test

    def told(what: str, done: float) -> None:
        progress("test", what, done)

    for verdict in self_test.run(device, duty=options["duty"], seed=options["seed"], progress=told):
        _send(answers, verdict.to_json())
    _send(answers, {"kind": "tested"})


def _send(answers: TextIO, message: Mapping[str, object]) -> None:
    answers.write(json.dumps(message) + "\n")
    answers.flush()


def _die_with_parent() -> None:
    """Ask Linux to kill this process when its parent ends, however it ends; elsewhere the closed input ends it."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
