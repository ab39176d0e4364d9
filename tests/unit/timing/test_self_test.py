"""The arithmetic of the self-test, and what `doctor --timing` makes of its verdicts."""

from __future__ import annotations

import pytest

from w8a8_bench.cli.doctor import _lines, _table
from w8a8_bench.cli.errors import UsageError
from w8a8_bench.timing.self_test import SLOWED, SPINS_US, SelfTestVerdict, _line_through, _ratio_text, _share_interval


def test_a_line_is_found_through_times_of_all_lengths():
    points = [(1e-6 * spin, 0.5e-6 + 1.001 * 1e-6 * spin) for spin in SPINS_US]
    slope, gap = _line_through(points)
    assert slope == pytest.approx(1.001, rel=1e-9)
    assert gap == pytest.approx(0.5e-6, rel=1e-6)


def test_short_times_count_as_much_as_long_ones():
    """One part in a thousand off at 3 ms is 3 us, and must not become the launch gap."""
    points = [(1e-6 * spin, 0.5e-6 + 1e-6 * spin) for spin in SPINS_US[:-1]] + [(3e-3, 3e-3 * 1.001 + 0.5e-6)]
    slope, gap = _line_through(points)
    assert gap == pytest.approx(0.5e-6, rel=0.02)
    assert slope == pytest.approx(1.0003, abs=5e-4)


@pytest.mark.parametrize(("count", "total"), [(0, 300), (3, 300), (100, 100), (90, 100)])
def test_an_interval_of_a_share_holds_the_share_and_stays_within_0_and_1(count, total):
    low, high = _share_interval(count, total)
    assert 0 <= low <= count / total <= high <= 1
    assert high - low < 0.15


def test_no_failure_in_300_still_allows_one_in_a_hundred():
    """Wilson's upper end for 0 of 300: z^2 / (n + z^2) = 3.8415 / 303.8415."""
    assert _share_interval(0, 300) == (0.0, pytest.approx(3.8415 / 303.8415, rel=1e-4))


def test_slower_spins_are_asked_for_with_more_certainty():
    assert list(SLOWED.items()) == [(0.01, 0.90), (0.02, 0.99), (0.05, 1.0)]


def test_the_table_names_what_failed():
    verdicts = [
        SelfTestVerdict("slope", True, "1.0001", "1 within 0.5%"),
        SelfTestVerdict("gap", False, "9 us", "below 3 us", {"x": 1}),
    ]
    lines = _table([verdict.to_json() for verdict in verdicts]).splitlines()
    assert lines[0].split() == ["test", "verdict", "figure", "expected"]
    assert lines[1].split()[:3] == ["slope", "pass", "1.0001"]
    assert lines[2].split()[:2] == ["gap", "FAIL"]


def test_a_ratio_without_an_interval_is_shown_alone():
    assert _ratio_text([1.00012] * 2) == "1.0001"
    assert _ratio_text([1.00012] * 12) == "1.0001 (1.0001 to 1.0001)"


def test_a_test_that_is_broken_off_keeps_its_verdicts(tmp_path):
    path = tmp_path / "v.jsonl"

    def broken_off() -> None:
        with _lines(str(path)) as write:
            write({"name": "slope"})
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        broken_off()
    assert path.read_text(encoding="utf-8") == '{"name": "slope"}\n'


def test_a_place_that_can_not_be_written_is_said_before_anything_is_tested(tmp_path):
    with pytest.raises(UsageError, match="can't be written"), _lines(str(tmp_path / "none" / "v.jsonl")):
        raise AssertionError("nothing is tested")
