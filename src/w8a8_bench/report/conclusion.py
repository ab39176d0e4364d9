"""What a sweep found, in a few plain words: which kernel is fastest, how sure that is, and what is missing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from w8a8_bench import stats
from w8a8_bench.kernel import FAULTS, Status
from w8a8_bench.report.comparable_runs import ResultSet
from w8a8_bench.report.run_facts import noise_floors, noise_of
from w8a8_bench.report.summary import (
    AS_FAST,
    AS_FAST_TEXT,
    KernelStanding,
    Summary,
    geometric_mean,
    kernel_key,
    summarize,
)
from w8a8_bench.report.table import BUSY, EMULATED, UNSETTLED
from w8a8_bench.results.record import Record
from w8a8_bench.text import counted, one_line


def answer(results: ResultSet) -> list[str]:
    """Lines that begin with `fastest:` and `how sure:`; of results without a time, one line that says so."""
    summary = summarize(results)
    if summary.measure is None or not summary.standings:
        return ["fastest: nothing was timed, since no kernel that was asked for ran"]
    best, ties = _best(summary)
    lines = [f"fastest: {_fastest(summary, best, ties)}"]
    if sure := _how_sure(results, summary, best):
        lines.append(f"how sure: {sure}")
    return lines


def broken(records: Sequence[Record]) -> str | None:
    """How many cells failed or were skipped, and how: `2 cells incorrect, 1 cell skipped`."""
    counts = Counter(record.status for record in records if record.status in (*FAULTS, Status.SKIPPED))
    return ", ".join(f"{counted(count, 'cell')} {status.value}" for status, count in counts.items()) or None


def _best(summary: Summary) -> tuple[KernelStanding, list[KernelStanding]]:
    """The 8-bit kernel that is fastest over the shapes, and those that are within 1% of it. Without any, the first."""
    complete = [one for one in summary.standings if len(one.every) == summary.shapes]
    quantized = [one for one in complete if one.is_8_bit]
    quantized = [one for one in quantized if EMULATED not in one.record.flags] or quantized
    if not quantized:
        return summary.standings[0], []
    best, *others = quantized
    return best, [one for one in others if geometric_mean(one.every) >= AS_FAST * geometric_mean(best.every)]


def _fastest(summary: Summary, best: KernelStanding, ties: Sequence[KernelStanding]) -> str:
    shapes = len(best.every)
    over = f"{shapes} shapes" if shapes > 1 else "one shape"
    if not summary.has_baseline:
        return f"{one_line(best.text)}, over {over}; bf16 was not timed, so there is no speed-up"
    if not best.is_8_bit:
        return (
            f"{one_line(best.text)}, over {over}; no 8-bit kernel was timed at {'all of them' if shapes > 1 else 'it'}"
        )
    low, mean, high = min(best.every), geometric_mean(best.every), max(best.every)
    spread = f"geometric mean of {over}, {low:.2f}x to {high:.2f}x" if shapes > 1 else over
    width = _typical_width(summary, best)
    speed = f"{mean:.2f}x" if width is not None and width <= BUSY else f"about {mean:.2g}x"
    speed = f"{speed} as fast as bf16 ({spread})"
    name = one_line(best.text)
    if EMULATED in best.record.flags:
        return f"{name}, {speed}; emulated in fp32, so this says nothing about FP8"
    if mean < 1:
        return f"bf16; the best 8-bit kernel, {name}, is {speed}"
    if not ties:
        return f"{name}, {speed}"
    further = f" and {len(ties) - 1} more are" if len(ties) > 1 else " is"
    return f"{name}, {speed}; {one_line(ties[0].text)}{further} {AS_FAST_TEXT}"


def _typical_width(summary: Summary, best: KernelStanding) -> float | None:
    """Half the width of the interval of the speed-up over bf16, over it: the median of the shapes that have one."""
    widths = []
    for row in (row for group in summary.rows for row in group if kernel_key(row.record) == kernel_key(best.record)):
        times = row.times.get(summary.measure or "")
        if times and times.speedup and times.speedup.interval:
            low, high = times.speedup.interval
            widths.append((high - low) / 2 / times.speedup.median)
    return stats.median(widths) if widths else None


def _how_sure(results: ResultSet, summary: Summary, best: KernelStanding) -> str:
    measure = summary.measure
    assert measure is not None
    rows = [row for group in summary.rows for row in group if measure in row.times]
    parts = []
    width = _typical_width(summary, best)
    if width is not None and best.is_8_bit:
        typical = " (median over the shapes)" if len(best.every) > 1 else ""
        parts.append(f"that speed-up is known to ±{100 * width:.1f}%{typical}")
    noise = noise_of(noise_floors(results, measure))
    if noise and noise.largest > BUSY:
        parts.append(f"this machine was too busy: {noise.text}")
    elif noise:
        parts.append(noise.text)
    unsettled = sum(UNSETTLED in row.record.flags for row in rows)
    if unsettled:
        many = f"{unsettled} of {len(rows)} times are" if unsettled > 1 else f"1 of {len(rows)} times is"
        parts.append(f"{many} not settled")
    return "; ".join(parts)
