"""Answers that are too much work for the oracle of a CPU are judged on a sample of whole rows, and say so."""

from __future__ import annotations

import math

import pytest
from copies import replace
from made_devices import CPU, H200
from test_oracle import CHANNEL_TOKEN, legal_problems, plain, prequantized

from w8a8_bench.correctness.check import check, sample_rows
from w8a8_bench.correctness.operand_factory import OperandFactory
from w8a8_bench.correctness.oracle import Oracle
from w8a8_bench.problem import Activations, GemmShape, Problem
from w8a8_bench.problem.formats import Format
from w8a8_bench.problem.operands import Operands

SAMPLED = GemmShape(m=50, n=33, k=65)
ROWS = [1, 7, 8, 30, 49]


def sampled_answer(**changes: object) -> Operands:
    """Right answers in a guarded output, whose `ROWS` are judged."""
    problem = Problem.of(shape=SAMPLED, format=Format.FP8, out=Format.BF16, scaling=CHANNEL_TOKEN, bias=True)
    problem = replace(problem, **changes)  # type: ignore[arg-type]
    operands = OperandFactory(SAMPLED, "cpu", data="normal", seed=3).make(problem, guarded=True)
    operands.out.copy_(plain(prequantized(operands)))
    return operands


def test_sampled_rows_of_every_legal_problem_are_judged_as_the_whole_is() -> None:
    factory, oracle = OperandFactory(SAMPLED, "cpu", data="normal", seed=1), Oracle()
    for problem in legal_problems(SAMPLED):
        operands = factory.make(problem, guarded=True)
        operands.out.copy_(plain(prequantized(operands)))
        verdict = check(operands, oracle, rows=ROWS)
        assert verdict.ok, f"{problem}: {verdict.reason}"
        assert verdict.rows == len(ROWS)
        assert 0 < verdict.worst <= check(operands, oracle).worst
    assert check(operands, oracle).rows is None


@pytest.mark.parametrize("row", ROWS)
def test_a_wrong_row_is_found_if_it_is_in_the_sample_and_called_by_its_number(row: int) -> None:
    operands = sampled_answer()
    operands.out[row] *= 1.25
    verdict = check(operands, Oracle(), rows=ROWS)
    assert not verdict.ok
    assert f"of {5 * 33} elements wrong in a sample of 5 rows; first at row {row}, column " in verdict.reason
    assert check(operands, Oracle(), rows=[r for r in ROWS if r != row]).ok


def test_what_an_operand_lacks_is_told_of_a_sample_too() -> None:
    operands = sampled_answer(activations=Activations.DYNAMIC)
    operands.out.copy_(plain(replace(prequantized(operands), bias=None)))
    reason = check(operands, Oracle(), rows=ROWS).reason
    assert "elements wrong in a sample of 5 rows (the answer without bias); first at row 1, column " in reason


@pytest.mark.parametrize("row", [0, 7, 48])
def test_an_unwritten_element_is_found_in_any_row(row: int) -> None:
    operands = sampled_answer()
    operands.out[row, 20] = math.nan
    verdict = check(operands, Oracle(), rows=ROWS)
    assert not verdict.ok
    where = f"1 of all {50 * 33} elements are NaN (not written?); first at row {row}, column 20"
    assert where in verdict.reason


@pytest.mark.parametrize("place", ["before", "past"])
def test_a_write_outside_the_output_is_found_whatever_rows_are_judged(place: str) -> None:
    operands = sampled_answer()
    out = operands.out
    start = out.storage_offset()
    index = start - 3 if place == "before" else start + out.numel() + 2
    out.as_strided((1,), (1,), index).fill_(1.0)
    reason = check(operands, Oracle(), rows=ROWS).reason
    assert reason.startswith("wrote outside the output: 1 elements")
    assert f"(nearest: 3 {place})" in reason


HUGE = GemmShape(m=448, n=16384, k=16384)


def test_the_same_seed_draws_the_same_rows() -> None:
    rows = sample_rows(HUGE, CPU, seed=1)
    assert rows is not None
    assert len(set(rows)) == 32 and rows == sorted(rows) and rows[0] >= 0 and rows[-1] < HUGE.m
    assert sample_rows(HUGE, CPU, seed=1) == rows
    assert sample_rows(HUGE, CPU, seed=2) != rows


@pytest.mark.parametrize(
    ("m", "n", "k", "rows"),
    [
        (448, 16384, 16384, 32),
        (33, 32768, 32768, 32),
        (32, 32768, 32768, 32),  # as many as there are
        (1, 32768, 32768, 1),
        (2048, 2048, 2048, 2048),
        (2049, 2048, 2048, 2048),
        (4096, 4096, 4096, 512),
    ],
)
def test_a_cpu_judges_as_many_rows_as_it_has_time_for_and_32_at_least(m: int, n: int, k: int, rows: int) -> None:
    shape = GemmShape(m=m, n=n, k=k)
    drawn = sample_rows(shape, CPU, seed=0)
    assert len(range(m) if drawn is None else drawn) == rows
    assert (drawn is None) == (rows == m)


def test_a_gpu_judges_every_row_however_many_there_are() -> None:
    for shape in (HUGE, GemmShape(m=32768, n=32768, k=32768)):
        assert sample_rows(shape, H200, seed=0) is None
