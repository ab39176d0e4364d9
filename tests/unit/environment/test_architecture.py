"""The table of architectures: what it says of formats is what NVIDIA documents."""

from __future__ import annotations

import pytest

from w8a8_bench.environment.architecture import tensor_cores_since
from w8a8_bench.problem.formats import Format


@pytest.mark.parametrize(
    ("format", "since"),
    [(Format.FP16, (7, 0)), (Format.INT8, (7, 5)), (Format.BF16, (8, 0)), (Format.FP8, (8, 9))],
)
def test_a_format_begins_with_the_architecture_whose_mma_takes_it(format: Format, since: tuple[int, int]) -> None:
    """The PTX ISA's target notes of `mma`."""
    assert tensor_cores_since(format) == since
