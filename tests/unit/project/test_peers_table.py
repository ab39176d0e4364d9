"""The table of libraries: whose time stands in a cell, and over what."""

from __future__ import annotations

import sys
from pathlib import Path

from made_results import record

from w8a8_bench.kernel import Status
from w8a8_bench.problem import GemmShape

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "scripts"))

import peers_table  # noqa: E402

SMALL, LARGE = GemmShape(m=16, n=64, k=64), GemmShape(m=16, n=128, k=64)
FP8 = "fp8_fp8_bf16_scaled_mm"


def rows(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines()]


def made() -> list:
    return [
        record(f"pytorch_{FP8}", 4e-6, shape=SMALL),
        record(f"pytorch_{FP8}_fast_accum", 2e-6, shape=SMALL),
        record(f"vllm_{FP8}", 1e-6, shape=SMALL),
        record(f"vllm_{FP8}_bias", 0.5e-6, shape=SMALL),
        record(f"pytorch_{FP8}", 1e-6, shape=LARGE),
        record(f"vllm_{FP8}", 4e-6, shape=LARGE),
        record(f"acme_{FP8}", 2e-6, shape=LARGE),
        record(f"odd_{FP8}", shape=LARGE, status=Status.UNSUPPORTED, reason="no"),
    ]


def test_a_cell_is_the_librarys_fastest_kernel_over_the_fastest_library_as_a_geometric_mean():
    title, head, row = rows(peers_table.render(made()))
    assert title == ["FP8,", "scales", "per", "tensor"]
    assert head == ["m", "shapes", "fastest", "pytorch", "vllm", "acme"]
    # pytorch is 2x and 1x, vllm 1x and 4x, acme 2x on the one shape that it ran.
    assert row == ["16", "2", "1.0", "us", "1.41x", "2.00x", "2.00x", "(1)"]


def test_rows_by_shape_are_the_medians_in_microseconds():
    _, head, small, large = rows(peers_table.render(made(), shapes=True))
    assert head == ["m", "n", "k", "pytorch", "vllm", "acme"]
    assert small == ["16", "64", "64", "2.00", "1.00", "-"]
    assert large == ["16", "128", "64", "1.00", "4.00", "2.00"]


def test_ways_of_scaling_and_formats_stand_apart():
    records = [
        record(f"vllm_{FP8}", 1e-6, shape=SMALL),
        record(f"vllm_{FP8}_blockwise", 3e-6, shape=SMALL),
        record("vllm_i8_i8_bf16_scaled_mm", 2e-6, shape=SMALL),
    ]
    parts = peers_table.render(records, shapes=True).split("\n\n")
    assert [part.splitlines()[-1].split()[-1] for part in parts] == ["3.00", "1.00", "2.00"]
