"""The process that owns a device: it takes comparisons, one JSON line each, and answers in JSON lines.

    main([DEVICE, STATUS])        `process` starts it

STATUS is the descriptor of the page on which it notes whose kernel runs.
Requests come on standard input: `{"comparison": ..., "settings": ...}`. Answers go to what was standard output, which
is then pointed at standard error, so that a kernel that prints can't be taken for the worker:

    {"kind": "hello", "device": ..., "environment": ..., "gpus": ...}   once, at the start
    {"kind": "refused", "reason": ...}                     instead of it: no such device, or no torch
    {"kind": "progress", "phase": ..., "what": ..., "done": 0..1}
    {"kind": "done", "records": [...], "end": ...}
    {"kind": "lost", "reason": ...}                        instead of it: a kernel broke the device's context
    {"kind": "verdict", ...}                               one for each part of a self-test, and then
    {"kind": "tested"}
    {"kind": "answer", ...}                                one for each question, and then
    {"kind": "answered"}
    {"kind": "build", "cell": place, "name": ..., ...}     one for each cell that needs one, and then
    {"kind": "listed"}
    {"kind": "built", "status": ..., "reason": ...}

`{"self_test": {"duty": ..., "seed": ...}}` asks for the self-test of the timing instead of a comparison,
`{"questions": [{"provider": ...}, {"kernel": ..., "shape": ...}]}` whether libraries load and what kernels refuse,
`{"cells": [...]}` what must be compiled for them, and `{"build": ..., "cell": ...}` that it is compiled.
"""

from __future__ import annotations

import functools
import json
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, TextIO

from msgspec import convert, to_builtins

from w8a8_bench.bench.worker_status import StatusPage
from w8a8_bench.kernel import Step
from w8a8_bench.text import in_one_line

if TYPE_CHECKING:
    from w8a8_bench.bench.cell_run import InHand, Progress
    from w8a8_bench.environment.device import Device

CLOSED = 77
"""Exit code of a worker whose pipes to its parent were closed or replaced."""

MAY_FORK = (Step.ASK, Step.PREPARE, Step.BUILD)
"""Steps that may compile in several processes."""

NO_TORCH = "torch is not installed: in the repository, `make setup`, or pip install '.[cpu]', or '.[cu13]' for CUDA 13"


def why_no_torch() -> str | None:
    """Import torch; returns what is wrong if that fails, or if what is imported is not torch."""
    try:
        import torch

        torch.cuda.is_available()
    except ModuleNotFoundError as error:
        return NO_TORCH if error.name == "torch" else _broken(error)
    except Exception as error:  # a library of its that is missing is an OSError, half an installation anything
        return _broken(error)
    return None


def _broken(error: Exception) -> str:
    return f"torch can't be imported: {in_one_line(error)}; install it anew"


def main(argv: list[str]) -> int:
    wanted, status_page = argv[0], StatusPage(int(argv[1]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent's to answer; what is raised here is a kernel's
    os.register_at_fork(after_in_child=functools.partial(_end_copy, status_page))
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    if reason := why_no_torch():
        _send(answers, {"kind": "refused", "reason": reason})
        return 0
    return _serve(wanted, status_page, answers)


def _serve(wanted: str, status_page: StatusPage, answers: TextIO) -> int:
    from w8a8_bench.bench import builds
    from w8a8_bench.bench.cell_run import DeviceLost
    from w8a8_bench.bench.comparison_run import run_comparison
    from w8a8_bench.environment import detect, versions
    from w8a8_bench.problem.comparison import Cell, Comparison
    from w8a8_bench.providers import registry
    from w8a8_bench.results.record import to_json
    from w8a8_bench.timing.rotation import ReservedMemory
    from w8a8_bench.timing.settings import Settings

    reserved = None
    try:
        device = detect.resolve_device(wanted)
    except detect.DeviceError as error:
        _send(answers, {"kind": "refused", "reason": str(error)})
        return 0
    if device.is_cuda:
        import torch

        torch.cuda.set_device(device.index)  # no context on another GPU, where it would take memory and be a neighbour
    described = {**versions.describe(device), "providers": registry.versions()}
    if sources := registry.sources():
        described["provider_sources"] = sources
    _send(
        answers,
        {"kind": "hello", "device": to_builtins(device), "environment": described, "gpus": detect.gpus()},
    )

    def progress(phase: str, what: str, done: float) -> None:
        _send(answers, {"kind": "progress", "phase": phase, "what": what, "done": done})

    held = [(number, _identity(number)) for number in (sys.stdin.fileno(), answers.fileno())]

    def in_hand(cell: int | None, step: Step | None) -> None:
        status_page.note(cell, step)
        if cell is None and any(_identity(number) != identity for number, identity in held):
            os._exit(CLOSED)  # at once, while the page still says whose kernel it was

    for line in sys.stdin:
        request = json.loads(line)
        if device.is_cuda and reserved is None and request.keys() & {"cells", "comparison"}:
            reserved = ReservedMemory(device)  # before what comes first of a sweep, and not by those that only compile
        if "self_test" in request:
            _test(device, request["self_test"], progress, answers)
            continue
        if "questions" in request:
            _answer(device, request["questions"], answers, in_hand)
            continue
        if "cells" in request:
            cells = convert(request["cells"], tuple[Cell, ...])
            for one in builds.builds_of(cells, device, in_hand):
                _send(answers, {"kind": "build", **asdict(one)})
            _send(answers, {"kind": "listed"})
            continue
        if "build" in request:
            run = builds.build(convert(request["cell"], Cell), request["build"], device, in_hand)
            _send(answers, {"kind": "built", "status": run.status.value, "reason": run.reason})
            continue
        comparison, settings = convert(request["comparison"], Comparison), convert(request["settings"], Settings)
        try:
            records, end = run_comparison(
                comparison, device, settings, progress=progress, in_hand=in_hand, reserved=reserved
            )
        except DeviceLost as error:
            _send(answers, {"kind": "lost", "reason": str(error)})
            return 1
        _send(answers, {"kind": "done", "records": [to_json(r) for r in records], "end": to_json(end)})
    return 0


def _test(device: Device, options: Mapping[str, Any], progress: Progress, answers: TextIO) -> None:
    from w8a8_bench.timing import self_test

    def told(what: str, done: float) -> None:
        progress("test", what, done)

    for verdict in self_test.run(device, duty=options["duty"], seed=options["seed"], progress=told):
        _send(answers, verdict.to_json())
    _send(answers, {"kind": "tested"})


def _answer(device: Device, questions: Sequence[Mapping[str, Any]], answers: TextIO, in_hand: InHand) -> None:
    from w8a8_bench.bench import provider_queries
    from w8a8_bench.problem import GemmShape
    from w8a8_bench.providers import registry

    providers = {provider.name: provider for provider in reversed(registry.all_providers())}
    for place, question in enumerate(questions):
        in_hand(place, Step.ASK)
        if "provider" in question:
            answer: dict[str, object] = {"probe": asdict(providers[question["provider"]].load())}
        else:
            answer = {"text": provider_queries.answer(question["kernel"], GemmShape(**question["shape"]), device)}
        in_hand(None, None)
        _send(answers, {"kind": "answer", **answer})
    _send(answers, {"kind": "answered"})


def _identity(descriptor: int) -> tuple[int, int] | None:
    """What a descriptor stands for; None once it is closed."""
    try:
        facts = os.fstat(descriptor)
    except OSError:
        return None
    return facts.st_dev, facts.st_ino


def _send(answers: TextIO, message: Mapping[str, object]) -> None:
    answers.write(json.dumps(message) + "\n")
    answers.flush()


def _end_copy(status_page: StatusPage) -> None:
    """End a process that a launch forked: a copy of the worker would go on with the measurement beside it."""
    note = status_page.read()
    if note.cell is not None and note.step not in MAY_FORK:
        os._exit(0)
