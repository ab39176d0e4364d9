"""The two looks at an answer: a right one is fetched once, a wrong one is named exactly, whatever the chunks are."""

from __future__ import annotations

import math

import pytest
import torch
from fetches import fetches_of
from test_oracle import CHANNEL_TOKEN, judged, legal_problems, plain, prequantized

from w8a8_bench.correctness import oracle
from w8a8_bench.correctness.check import Verdict, check
from w8a8_bench.correctness.operand_factory import OperandFactory
from w8a8_bench.correctness.oracle import Oracle
from w8a8_bench.problem import GemmShape, Problem
from w8a8_bench.problem.formats import OUT_FORMATS, Format
from w8a8_bench.problem.operands import Operands

SHAPE = GemmShape(m=12, n=33, k=65)
RIGHT = [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0], [7.0, 8.0]]


@pytest.fixture(params=[1, 2, 3, 4], ids=lambda rows: f"{rows} rows at a time")
def chunked(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(oracle, "CHECK_CHUNK", 2 * request.param)


def doubled(d: list[list[float]], half: list[list[float]]) -> Verdict:
    """The verdict on `d` in fp16 where the answer is twice `half`, which fp16 can hold."""
    a = torch.tensor(half, dtype=torch.float16)
    m, n = a.shape
    operands = Operands(
        problem=Problem.of(shape=GemmShape(m=m, n=n, k=n), format=Format.FP16, out=Format.FP16, scaling=None),
        a=a,
        b=2 * torch.eye(n, dtype=torch.float16),
        out=torch.tensor(d, dtype=torch.float16),
    )
    return check(operands, Oracle())


def with_element(row: int, column: int, value: float) -> list[list[float]]:
    d = [list(numbers) for numbers in RIGHT]
    d[row][column] = value
    return d


@pytest.mark.usefixtures("chunked")
def test_the_first_and_the_worst_element_are_named_in_whichever_chunk_they_are() -> None:
    d = with_element(2, 1, 6.5)
    d[3][0] = 70.0
    verdict = judged(d, RIGHT)
    assert verdict.reason.startswith("2 of 8 elements wrong; first at row 2, column 1: got 6.5, expected 6 +- ")
    assert "; worst at row 3, column 0: got 70, expected 7 +- " in verdict.reason
    assert verdict.relative_error == pytest.approx(math.sqrt((0.5**2 + 63**2) / sum(i**2 for i in range(9))))
    assert 100 < verdict.worst < math.inf


@pytest.mark.usefixtures("chunked")
@pytest.mark.parametrize("row", range(4))
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_one_element_that_is_no_number_is_found_in_any_chunk(row: int, value: float) -> None:
    verdict = judged(with_element(row, 1, value), RIGHT)
    counted = ", 1 of them NaN (not written, or made of what out held before?)" if math.isnan(value) else ""
    assert verdict.reason.startswith(f"1 of 8 elements wrong{counted}; first at row {row}, column 1: got {value:g}, ")
    assert verdict.relative_error == verdict.worst == math.inf


@pytest.mark.usefixtures("chunked")
def test_infinity_is_right_past_the_range_of_fp16_alone_and_the_other_elements_are_still_judged() -> None:
    right = [[40000.0, 40000.0], [0.5, 1.0], [-40000.0, -40000.0], [1.5, 2.0]]
    d = [[math.inf, math.inf], [1.0, 2.0], [-math.inf, -math.inf], [3.0, 4.0]]
    assert doubled(d, right).ok
    d[3][1] = 4.5
    assert doubled(d, right).reason.startswith("1 of 8 elements wrong; first at row 3, column 1: got 4.5, expected 4 ")
    d[3][1], d[2][0] = 4.0, 65504.0
    assert "first at row 2, column 0: got 65504, expected -80000 " in doubled(d, right).reason


def test_no_answer_is_right_if_the_expected_value_is_not_a_number() -> None:
    for value in (1.0, math.nan, math.inf):
        assert not judged([[value, 2.0]], [[math.inf, 2.0]]).ok


def test_a_right_answer_is_fetched_once_and_its_guards_once_whatever_the_number_of_chunks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    known = Oracle()
    factory = OperandFactory(SHAPE, "cpu", data="normal", seed=1)
    for problem in legal_problems(SHAPE):
        operands = factory.make(problem, guarded=True)
        operands.out.copy_(plain(prequantized(operands)))
        assert check(operands, known).ok
        for rows in (1, 5, SHAPE.m):
            monkeypatch.setattr(oracle, "CHECK_CHUNK", rows * SHAPE.n)
            # A that the oracle quantizes is at another address every time, and so its bits are compared.
            fetched = [name for name in fetches_of(lambda: check(operands, known)) if name != "equal"]  # noqa: B023
            assert fetched == ["tolist", "__bool__"], problem
    operands.out[5, 6] = -100 * operands.out[5, 6]
    assert len(fetches_of(lambda: check(operands, known))) > 10


@pytest.mark.parametrize("out", OUT_FORMATS)
def test_a_look_leaves_the_kept_product_as_it_is(out: Format) -> None:
    known = Oracle()
    factory = OperandFactory(SHAPE, "cpu", data="normal", seed=2)
    for problem in legal_problems(SHAPE):
        if problem.out is out:
            operands = factory.make(problem, guarded=True)
            operands.out.copy_(plain(prequantized(operands)))
            fresh = Oracle().expected(operands)
            assert check(operands, known) == check(operands, known)
            operands.out[3] = 1e4
            assert not check(operands, known).ok
            again = known.expected(operands)
            torch.testing.assert_close(again.value, fresh.value, rtol=1e-12, atol=1e-12)
            torch.testing.assert_close(again.tolerance, fresh.tolerance, rtol=1e-5, atol=1e-30)


def test_the_verdict_is_the_same_to_the_last_digits_whatever_the_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = Problem.of(shape=SHAPE, format=Format.FP8, out=Format.BF16, scaling=CHANNEL_TOKEN, bias=True)
    operands = OperandFactory(SHAPE, "cpu", data="normal", seed=1).make(problem, guarded=True)
    operands.out.copy_(plain(operands))
    expected = Oracle().expected(operands)
    error = operands.out.double() - expected.value
    for rows in (1, 5, SHAPE.m):
        monkeypatch.setattr(oracle, "CHECK_CHUNK", rows * SHAPE.n)
        verdict = check(operands, Oracle())
        assert verdict.worst == pytest.approx(float((error.abs() / expected.tolerance).max()), rel=1e-12)
        assert verdict.relative_error == pytest.approx(float(error.norm() / expected.value.norm()), rel=1e-12)
