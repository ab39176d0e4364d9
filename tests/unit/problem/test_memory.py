"""The estimate of a comparison's memory, and what is left of the device's for products that are kept."""

from __future__ import annotations

from w8a8_bench.problem import BLOCKWISE, PER_TENSOR, Activations, GemmShape, Problem, Scaling
from w8a8_bench.problem.formats import OUT_FORMATS, Format
from w8a8_bench.problem.memory import comparison_bytes, most_sets, product_cache_bytes, rotation_bytes

LARGE = GemmShape(m=8192, n=28672, k=4096)
TOKEN = Scaling.parse("channel-w-token-a")
FP8_PRODUCT = 12 * LARGE.m * LARGE.n
L2_BYTES = 60 << 20


def problem(fmt: Format, scaling: Scaling | None, out: Format = Format.BF16, **more: object) -> Problem:
    return Problem.of(shape=LARGE, format=fmt, out=out, scaling=scaling, **more)  # type: ignore[arg-type]


PROBLEMS = [
    problem(Format.BF16, None),
    *(problem(Format.FP8, scaling, out) for scaling in (PER_TENSOR, TOKEN, BLOCKWISE) for out in OUT_FORMATS),
    *(problem(Format.INT8, scaling, out) for scaling in (PER_TENSOR, TOKEN) for out in OUT_FORMATS),
    *(problem(Format.INT8, TOKEN, activations=activations) for activations in (Activations.DYNAMIC,) * 10),
]


def kept(available_bytes: int, problems: list[Problem] = PROBLEMS) -> int:
    most = most_sets(problems, L2_BYTES, available_bytes - comparison_bytes(problems))
    return product_cache_bytes(problems, cuda=True, l2_bytes=L2_BYTES, most_sets=most, available_bytes=available_bytes)


def test_an_h200_keeps_the_products_of_all_cells_of_a_large_comparison() -> None:
    assert len(PROBLEMS) == 21
    assert kept(140 * 10**9) > 6 * FP8_PRODUCT


def test_what_is_kept_is_half_of_what_is_left_and_never_less_than_nothing() -> None:
    needed = comparison_bytes(PROBLEMS) + rotation_bytes(PROBLEMS, L2_BYTES, 5)
    for left, half in ((-1, 0), (0, 0), (1 << 30, 1 << 29)):
        room = product_cache_bytes(PROBLEMS, cuda=True, l2_bytes=L2_BYTES, most_sets=5, available_bytes=needed + left)
        assert room == half


def test_the_estimate_counts_one_product_whatever_the_number_of_schemes() -> None:
    one = [problem(Format.FP8, PER_TENSOR)]
    two = [*one, problem(Format.FP8, TOKEN)]
    assert FP8_PRODUCT < comparison_bytes(one) < comparison_bytes(two) < comparison_bytes(one) + FP8_PRODUCT // 2
