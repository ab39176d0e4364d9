"""The SM clock from two readings of cycles and nanoseconds."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from w8a8_bench.timing.device_code import busy_clock_mhz, clock_mhz  # noqa: E402


def readings(*pairs: tuple[int, int]) -> torch.Tensor:
    return torch.tensor(pairs, dtype=torch.int64)


def test_it_is_the_median_over_the_multiprocessors_that_both_saw() -> None:
    before = readings((100, 1000), (0, 0), (500, 1000), (900, 1000))
    after = readings((1_900_100, 1_001_000), (77, 1_001_000), (1_800_500, 1_001_000), (1_700_900, 1_001_000))
    assert clock_mhz(before, after) == pytest.approx(1800)


def test_there_is_none_where_nothing_was_read() -> None:
    nothing = readings((0, 0), (0, 0))
    assert clock_mhz(nothing, nothing) is None


def test_spins_and_gaps_between_launches_are_left_out() -> None:
    """100 launches of 20 us at 1,700 MHz; 100 spins of 5 us at 1,980, and gaps of 1 us."""
    spent = torch.tensor([100 * 5 * 1980, 100 * 5000])
    after = readings((100 * 20 * 1700 + 100 * 6 * 1980, 1 + 100 * 26_000))
    before = readings((0, 1))
    assert clock_mhz(before, after) == pytest.approx(1765, abs=1)
    assert busy_clock_mhz(before, after, spent, 2e-3) == pytest.approx(1700)
