"""Several runs as one base: verdicts are sharper, still right, and no single base decides any."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from copies import replace
from made_results import changed
from made_runs import CELL_SD, COLD, drawn

from w8a8_bench.analysis.pairing import pair, pair_several
from w8a8_bench.kernel import Status
from w8a8_bench.problem.kernel_name import BASELINE
from w8a8_bench.report.compare.compare import Judgement, Outcome, compare
from w8a8_bench.results import json_lines
from w8a8_bench.results.json_lines import Results
from w8a8_bench.results.record import Record

H200 = Path(__file__).resolve().parents[4] / "results/h200"
RUN1, RUN2, OTHER_CARD = (json_lines.read(H200 / f"llama2_7b_28_shapes_run{n}.jsonl.gz") for n in (1, 2, 3))
SEVEN = replace(RUN1, comparisons=RUN1.comparisons[::4])
"""Seven shapes of ten cells."""
CELL = next((one.kernel, one.problem) for one in SEVEN.records if one.kernel == "pytorch_fp8_fp8_bf16_scaled_mm")
CHANGED = (Judgement.SLOWER, Judgement.FASTER)


def judged(bases: Sequence[Results], new: Results, *, anchored: bool = True) -> Outcome:
    return compare(pair_several(bases, new), anchored=anchored)


def counts(outcome: Outcome) -> Counter:
    return Counter(timed.verdict for timed in outcome.timed)


def runs(seed: int, count: int, cell_sd: float = CELL_SD) -> list[Results]:
    """Runs of the same code."""
    return [drawn(SEVEN, 10 * seed + number, cell_sd=cell_sd) for number in range(count)]


def of_kernel(one: Record) -> bool:
    return (one.kernel, one.problem.scaling) == (CELL[0], CELL[1].scaling)


def slowed(results: Results, factor: float, which: Callable[[Record], bool] = of_kernel) -> Results:
    """The samples of some cells; the baseline's duplicate with it."""

    def longer(samples):
        return {COLD: tuple(factor * sample for sample in samples)}

    records = [replace(one, samples=longer(one.samples[COLD])) if which(one) else one for one in results.records]
    baselines = {one.comparison for one in results.records if one.kernel == BASELINE and which(one)}
    ends = [
        replace(end, duplicate={**end.duplicate, "samples": longer(end.duplicate_samples(COLD)[0])})
        if end.index in baselines
        else end
        for end in results.ends
    ]
    return changed(results, records, ends)


def test_one_base_is_judged_as_ever() -> None:
    paired = pair(RUN1, RUN2)
    assert pair_several([RUN1], RUN2) == paired
    assert judged([RUN1], RUN2).timed == compare(paired, anchored=True).timed


@pytest.mark.parametrize("anchored", [True, pytest.param(False, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "cell_sd",
    [CELL_SD, pytest.param(5 * CELL_SD, marks=pytest.mark.slow)],
    ids=["as measured", "of a noisier machine"],
)
def test_two_hundred_simulated_comparisons_of_the_same_code_have_at_most_one_percent_of_wrong_verdicts(
    anchored, cell_sd
) -> None:
    total: Counter = Counter()
    kernels: Counter = Counter()
    for seed in range(200):
        *bases, new = runs(seed, 4, cell_sd)
        outcome = judged(bases, new, anchored=anchored)
        total += counts(outcome)
        kernels += Counter(mean.verdict for mean in outcome.by_cell.values())
    assert total.total() == 200 * 70
    for verdicts in (total, kernels):
        assert verdicts[Judgement.SLOWER] + verdicts[Judgement.FASTER] <= 0.01 * verdicts.total()
    if cell_sd == CELL_SD:
        assert total[Judgement.SAME] > 0.9 * total.total()


@pytest.mark.parametrize("factor", [1.03, 1 / 1.03])
def test_three_percent_on_one_kernel_are_found_in_simulated_runs(factor) -> None:
    right = there = wrong = 0
    for seed in range(300, 310):
        *bases, new = runs(seed, 4)
        for timed in judged(bases, slowed(new, factor)).timed:
            own = of_kernel(timed.shift.new)
            if own and timed.shift.base_s > 10e-6:
                there += 1
                right += timed.verdict is (Judgement.SLOWER if factor > 1 else Judgement.FASTER)
            wrong += not own and timed.verdict in CHANGED
    assert there >= 50
    assert right >= 0.95 * there
    assert wrong <= 0.01 * 10 * 70


def test_intervals_are_narrower_with_more_bases() -> None:
    *bases, new = runs(400, 6)
    widths = []
    for count in (1, 2, 3, 5):
        outcome = judged(bases[:count], new)
        reach = [high - low for low, high in (one.interval for one in outcome.timed)]
        widths.append(sum(reach) / len(reach))
    assert widths == sorted(widths, reverse=True)
    assert widths[-1] < 0.85 * widths[0]


ODD = {
    "one cell": lambda one: (one.kernel, one.problem) == CELL,
    "one kernel": of_kernel,
    "one shape": lambda one: one.problem.shape == CELL[1].shape,
    "the whole run": lambda one: True,
}


@pytest.mark.parametrize("count", [2, 3, 5])
@pytest.mark.parametrize("what", ODD)
@pytest.mark.parametrize("factor", [1.02, 1.1, 1 / 1.1])
def test_no_odd_base_decides_a_verdict(count, what, factor) -> None:
    for seed in (500, 501):
        *bases, new = runs(seed, count + 1)
        odd = slowed(bases[-1], factor, ODD[what])
        outcome = judged([*bases[:-1], odd], new, anchored=False)
        assert not set(counts(outcome)) & set(CHANGED)
        assert not {mean.verdict for mean in outcome.by_cell.values()} & set(CHANGED)
        assert set(counts(judged([odd], new, anchored=False))) & set(CHANGED), "the base would be no test of it"


def broken(results: Results) -> Results:
    """One kernel crashed."""
    lost = {"status": Status.CRASHED, "reason": "gone", "samples": {}, "blocks": {}}
    return changed(results, [replace(one, **lost) if of_kernel(one) else one for one in results.records])


@pytest.mark.parametrize("place", [0, 2])
def test_a_cell_that_failed_in_one_base_is_judged_by_the_others(place) -> None:
    *bases, new = runs(600, 4)
    bases[place] = broken(bases[place])
    outcome = judged(bases, new)
    assert len(outcome.timed) == 70 and not outcome.changes
    assert {one.shift.runs for one in outcome.timed} == {2, 3}
    assert not set(counts(outcome)) & set(CHANGED)
    bases[1] = slowed(bases[1], 1.1)
    assert not set(counts(judged(bases, new, anchored=False))) & set(CHANGED), "the one of two that is left is odd"


@pytest.mark.parametrize("place", [0, 2])
def test_a_cell_that_worked_in_any_base_and_does_not_any_more_is_worse(place) -> None:
    *bases, new = runs(700, 4)
    bases[place] = broken(bases[place])
    assert len(judged(bases, broken(new)).worse()) == 7
    assert not judged(list(map(broken, bases)), broken(new)).worse()


def test_bases_of_other_cells_or_another_card_are_refused_by_name() -> None:
    shorter = replace(RUN2, comparisons=RUN2.comparisons[1:], path=Path("shorter.jsonl"))
    with pytest.raises(
        ValueError, match=r"shorter\.jsonl and .* are bases with other cells: expected runs of one plan"
    ):
        pair_several([RUN1, shorter], RUN2)
    with pytest.raises(ValueError, match=r"run3\.jsonl\.gz was measured on another device than .*run1\.jsonl\.gz"):
        pair_several([RUN1, OTHER_CARD], RUN2)
