"""The hold on a worker: what it is doing can be read at any moment, and what it prints fills no disk."""

from __future__ import annotations

import os
import signal

import pytest

from w8a8_bench.bench import process
from w8a8_bench.bench.process import Worker, WorkerLimits, WorkerLost
from w8a8_bench.bench.worker_status import StatusPage
from w8a8_bench.kernel import Status, Step


def test_a_slate_tells_another_who_runs_who_ran_last_and_that_something_happened():
    ours = StatusPage()
    theirs = StatusPage(os.dup(ours.descriptor))
    ours.clear()
    first = ours.read()
    assert (first.cell, first.last, first.step) == (None, None, None)
    theirs.note(3, Step.PREPARE)
    running = ours.read()
    assert (running.cell, running.last, running.step) == (3, 3, Step.PREPARE)
    theirs.note(None, None)
    over = ours.read()
    assert (over.cell, over.last, over.step) == (None, 3, Step.PREPARE)
    theirs.note(3, Step.PREPARE)
    assert len({first.number, running.number, over.number, ours.read().number}) == 4, (
        "a step of the same cell is not told"
    )
    ours.clear()
    assert ours.read().last is None
    for status_page in (ours, theirs):
        status_page.close()


def test_a_worker_that_stops_outside_of_kernels_is_not_waited_for_for_ever(monkeypatch):
    monkeypatch.setattr(process, "SILENCE_S", 0.5)
    with Worker("cpu", WorkerLimits(step_s=0.05)) as one:
        one.hello()
        os.kill(one._process.pid, signal.SIGSTOP)
        with pytest.raises(WorkerLost, match="did and said nothing for"):
            list(one.ask([{"provider": "pytorch"}]))


@pytest.fixture
def worker():
    with Worker("cpu", WorkerLimits(step_s=0.05, host_bytes=1 << 40)) as one:
        one.hello()
        yield one


def test_error_output_is_cut_and_its_end_kept(worker):
    worker._errors.write(b"early\n" + b"x" * (3 * process.STDERR_BYTES) + b"\nlast words\n")
    worker._errors.flush()
    worker._watch()
    assert os.fstat(worker._errors.fileno()).st_size <= process.STDERR_BYTES // 4
    os.kill(worker._process.pid, signal.SIGKILL)
    lost = worker._lost()
    assert lost.reason.endswith("last words")
    assert "SIGKILL" in lost.reason


def test_a_worker_ends_when_its_parents_end_of_the_lifeline_is_closed(worker):
    """As Linux closes it when the parent is killed."""
    worker._lifeline.close()
    assert worker._process.wait(process.ENDING_S) == -signal.SIGKILL


def test_a_step_that_outlasts_its_limit_is_a_time_out_of_its_cell(worker, monkeypatch):
    worker._status.note(2, Step.BIND)
    worker._watch()
    now = process.time.monotonic()
    monkeypatch.setattr(process.time, "monotonic", lambda: now + 1)
    with pytest.raises(WorkerLost, match=r"^bind\(\) took over 0.05 s \(--step-limit\)") as lost:
        worker._watch()
    assert (lost.value.status, lost.value.cell) == (Status.TIMED_OUT, 2)


def test_where_no_kernel_runs_nothing_is_too_slow(worker, monkeypatch):
    worker._status.note(2, Step.BIND)
    worker._status.note(None, None)
    worker._watch()
    now = process.time.monotonic()
    monkeypatch.setattr(process.time, "monotonic", lambda: now + process.SILENCE_S - 1)
    worker._watch()


def test_a_worker_over_its_memory_is_ended_for_that(worker):
    worker._host_bytes = 1 << 20
    worker._status.note(1, Step.LAUNCH)
    with pytest.raises(WorkerLost, match=r"main memory, of 0\.0 available in its first launch") as lost:
        worker._watch()
    assert (lost.value.status, lost.value.cell) == (Status.OUT_OF_MEMORY, 1)


def test_control_characters_of_a_lost_worker_reach_no_terminal(worker):
    worker._errors.write(b"\x1b[31mred\x07\n")
    worker._errors.flush()
    assert worker._lost("gone").reason == "gone: [31mred"


def test_an_answer_that_is_no_message_is_a_loss(worker):
    worker._received = b"[1, 2]\n"
    with pytest.raises(WorkerLost, match="no message"):
        worker._receive()


def test_a_worker_that_ends_while_it_starts_is_started_again_a_few_times(monkeypatch):
    with Worker("cpu") as one:
        os.kill(one._process.pid, signal.SIGKILL)
        assert one.hello()[0].kind == "cpu"
        one._hello = None
        one._end()  # as one that was killed after it was restarted: its pipes are closed
        assert one.hello()[0].kind == "cpu"
        starts = []
        monkeypatch.setattr(one, "_start", lambda: starts.append(1))
        one._hello = None
        one._end()
        with pytest.raises(WorkerLost, match="SIGKILL"):
            one.hello()
        assert len(starts) == process.STARTS - 1
