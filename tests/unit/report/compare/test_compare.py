"""Verdicts on two runs: right on the same code, and on code that was slowed."""

from __future__ import annotations

import math
import random
from collections import Counter
from pathlib import Path

import pytest
from copies import replace
from made_results import changed, end, in_file, record
from made_runs import COLD, drawn

from w8a8_bench.analysis.pairing import pair
from w8a8_bench.kernel import Status
from w8a8_bench.problem import GemmShape
from w8a8_bench.problem.kernel_name import BASELINE
from w8a8_bench.report.compare.compare import Judgement, Mean, Outcome, compare
from w8a8_bench.results import json_lines
from w8a8_bench.results.json_lines import Results

ROOT = Path(__file__).resolve().parents[4]
CHANGED = (Judgement.SLOWER, Judgement.FASTER)
FP16 = "pytorch_fp16_fp16_fp16_matmul-no-scales"
FP8 = "pytorch_fp8_fp8_bf16_scaled_mm"


def committed(name: str) -> Results:
    return json_lines.read(ROOT / f"results/h200/{name}.jsonl.gz")


RUN1, RUN2 = committed("llama2_7b_28_shapes_run1"), committed("llama2_7b_28_shapes_run2")
UNSEEN = committed("llama2_7b_28_shapes_run3"), committed("llama2_7b_28_shapes_run4")
"""Of another machine and day: the effects of runs were not measured on them."""
OTHER_PLAN = committed("model_fp8_llama2_7b")
CELLS = list(dict.fromkeys((one.kernel, one.problem.scaling) for one in RUN1.records))


def judged(base: Results, new: Results, *, anchored: bool = True, **options) -> Outcome:
    return compare(pair(base, new), anchored=anchored, **options)


def counts(outcome: Outcome) -> Counter:
    return Counter(timed.verdict for timed in outcome.timed)


def is_of(cell):
    return lambda one: (one.kernel, one.problem.scaling) == cell


def slowed(results: Results, cell, factor: float) -> Results:
    """Every sample of one kernel under one scheme; the duplicate with it, where that is of this cell."""
    records = tuple(
        replace(one, samples={COLD: tuple(factor * s for s in one.samples[COLD])}) if is_of(cell)(one) else one
        for one in results.records
    )
    ends = results.ends
    if cell[0] == BASELINE:
        ends = tuple(
            replace(e, duplicate={**e.duplicate, "samples": {COLD: [factor * s for s in e.duplicate_samples(COLD)[0]]}})
            for e in ends
        )
    return changed(results, records, ends)


def found(outcome: Outcome, cell, verdict: Judgement) -> tuple[int, int, int]:
    """Of the cells over 10 us: how many have the verdict, and how many there are; and wrong ones elsewhere."""
    own = [t for t in outcome.timed if is_of(cell)(t.shift.new) and t.shift.base_s > 10e-6]
    others = [t for t in outcome.timed if not is_of(cell)(t.shift.new)]
    return sum(t.verdict is verdict for t in own), len(own), sum(t.verdict in CHANGED for t in others)


@pytest.mark.parametrize("runs", [(RUN1, RUN2), UNSEEN], ids=["calibration", "unseen"])
def test_two_committed_runs_of_the_same_code_have_no_wrong_verdict_and_most_cells_are_the_same(runs) -> None:
    outcome = judged(*runs)
    assert len(outcome.timed) == 280
    assert [t for t in outcome.timed if t.verdict in CHANGED] == []
    assert counts(outcome)[Judgement.SAME] > 250
    assert not outcome.beyond()
    assert outcome.mean is not None and outcome.mean.interval[0] < 1 < outcome.mean.interval[1]
    assert all(mean.interval[0] < 1 < mean.interval[1] for mean in outcome.by_cell.values())


ONE, SHARED, DEALT = (committed(f"llama31_8b_{name}") for name in ("one", "two_gpus", "dealt"))
"""A model on one H200; on two of them, of which it was the first; and what that one was dealt, on it alone again."""


def of_one_card(results: Results) -> Results:
    """What the card of ONE measured of a sweep that two shared."""
    card = ONE.comparisons[0].card
    return replace(results, comparisons=tuple(one for one in results.comparisons if one.card == card))


def test_cells_after_the_same_ones_are_as_alike_with_another_gpu_at_work_as_alone() -> None:
    outcome = judged(DEALT, of_one_card(SHARED))
    assert len(outcome.timed) == 166 and all(shape.pair.alike for shape in outcome.shapes)
    assert counts(outcome)[Judgement.SAME] > 150
    assert not set(counts(outcome)) & set(CHANGED)


@pytest.mark.parametrize("anchored", [True, False])
def test_cells_after_other_ones_are_not_called_changed_for_that(anchored) -> None:
    """With the intervals of cells after the same ones, one of them was."""
    for new in (DEALT, of_one_card(SHARED)):
        outcome = judged(ONE, new, anchored=anchored)
        assert len(outcome.timed) == 166 and not all(shape.pair.alike for shape in outcome.shapes)
        assert not set(counts(outcome)) & set(CHANGED)
        assert max(abs(t.shift.log) for t in outcome.timed) > 0.01, "the data would be no test of it"


def test_a_kernel_that_is_slower_everywhere_is_found_after_other_cells_too() -> None:
    cell = next(cell for cell in CELLS if cell[0] == FP8)
    outcome = judged(ONE, slowed(DEALT, cell, 1.05))
    right, there, wrong = found(outcome, cell, Judgement.SLOWER)
    assert right >= 0.9 * there and there > 8
    assert wrong <= 0.01 * len(outcome.timed)


def test_shapes_on_another_card_are_not_judged_and_the_others_are() -> None:
    outcome = judged(SHARED, changed(SHARED, swapped(SHARED)))
    verdicts = {shape.pair.same_card: {t.verdict for t in shape.timed} for shape in outcome.shapes}
    assert verdicts == {True: {Judgement.SAME}, False: {Judgement.INCONCLUSIVE}}
    assert outcome.mean.cells == sum(len(shape.timed) for shape in outcome.shapes if shape.pair.same_card)


def swapped(results: Results):
    """The records, those of the last two shapes as if on the other card."""
    first, second = dict.fromkeys(one.device for one in results.records)
    last = {close.index for close in results.ends[-2:]}
    other = {first: second, second: first}
    return [replace(r, device=other[r.device]) if r.comparison in last else r for r in results.records]


def test_twenty_simulated_pairs_of_the_same_code_have_at_most_one_percent_of_wrong_verdicts() -> None:
    total: Counter = Counter()
    for seed in range(20):
        total += counts(judged(drawn(RUN1, 2 * seed), drawn(RUN1, 2 * seed + 1)))
    assert total.total() == 20 * 280
    assert total[Judgement.SLOWER] + total[Judgement.FASTER] <= 0.01 * total.total()
    assert total[Judgement.SAME] > 0.9 * total.total()


@pytest.mark.parametrize("cell", CELLS, ids=[f"{kernel}-{scaling}" for kernel, scaling in CELLS])
def test_three_percent_on_one_kernel_are_found_in_the_committed_pair_and_nowhere_else(cell) -> None:
    for factor, verdict in ((1.03, Judgement.SLOWER), (1 / 1.03, Judgement.FASTER)):
        outcome = judged(RUN1, slowed(RUN2, cell, factor))
        right, there, wrong = found(outcome, cell, verdict)
        assert there >= 20
        assert right >= 0.95 * there
        assert wrong <= 0.01 * len(outcome.timed)
        assert bool(outcome.beyond()) is (factor > 1)


def test_three_percent_on_one_kernel_are_found_in_simulated_pairs() -> None:
    right = there = wrong = 0
    for seed, cell in enumerate(random.Random(7).sample(CELLS, 5)):
        new = slowed(drawn(RUN1, 100 + 2 * seed), cell, 1.03)
        result = found(judged(drawn(RUN1, 101 + 2 * seed), new), cell, Judgement.SLOWER)
        right, there, wrong = right + result[0], there + result[1], wrong + result[2]
    assert right >= 0.95 * there
    assert wrong <= 0.01 * 5 * 280


def test_one_slower_kernel_among_many_makes_few_of_the_others_look_changed() -> None:
    called = wrong = 0
    for seed in range(20):
        cell = random.Random(seed).choice(CELLS)
        outcome = judged(drawn(RUN1, 201 + 2 * seed), slowed(drawn(RUN1, 200 + 2 * seed), cell, 1.05))
        changed_ones = [timed for timed in outcome.timed if timed.verdict in CHANGED]
        called += len(changed_ones)
        wrong += sum(not is_of(cell)(timed.shift.new) for timed in changed_ones)
        (slower,) = outcome.slower_kernels()
        assert {timed.cell for timed in outcome.timed if is_of(cell)(timed.shift.new)} == {slower}
    assert called >= 20 * 28
    assert wrong <= 0.01 * called


def test_intervals_within_the_runs_alone_would_call_many_cells_changed() -> None:
    """Why the effects of runs are there: they are not in the samples."""
    outcome = judged(RUN1, RUN2)
    alone = [abs(t.shift.log) > 1.96 * math.sqrt(t.shift.samples.value) for t in outcome.timed]
    assert sum(alone) > 0.08 * len(alone)


def test_where_the_machine_moved_its_anchors_keep_the_verdicts_from_being_wrong() -> None:
    """Other cells and measures beside the same code, a minute apart: times of two shapes of four are 3 to 5% longer."""
    for base, new in ((OTHER_PLAN, RUN1), (RUN2, OTHER_PLAN)):
        outcome = judged(base, new)
        assert len(outcome.timed) == 24
        assert counts(outcome)[Judgement.SLOWER] + counts(outcome)[Judgement.FASTER] == 0
        assert outcome.mean.interval[0] < 1 < outcome.mean.interval[1]
        assert not any(shape.pair.alike for shape in outcome.shapes)
    without = counts(judged(OTHER_PLAN, RUN1, anchored=False))
    assert without[Judgement.SLOWER] > 6, "the data would be no test of it"


def test_a_shape_that_moved_is_not_judged_and_the_others_are() -> None:
    moved = {index: 1.04 if index % 3 == 0 else 1.0 for index in range(28)}
    outcome = judged(drawn(RUN1, 1), slowed(drawn(RUN1, 2, shape_factor=moved.get), CELLS[4], 1.03))
    for shape, factor in zip(outcome.shapes, moved.values(), strict=True):
        assert (shape.moved > 1.02) is (factor > 1)
        verdicts = {t.verdict for t in shape.timed if not is_of(CELLS[4])(t.shift.new)}
        assert not verdicts & set(CHANGED)
        own = next(t for t in shape.timed if is_of(CELLS[4])(t.shift.new))
        assert own.verdict is (Judgement.INCONCLUSIVE if factor > 1 else Judgement.SLOWER)


def test_an_anchor_that_moves_alone_was_changed_and_widens_nothing_beside_it() -> None:
    baseline = next(cell for cell in CELLS if cell[0] == BASELINE)
    two = [one for one in RUN1.records if one.kernel in (BASELINE, FP8)]
    few = changed(RUN1, two, [replace(e, cells=3) for e in RUN1.ends])
    outcome = judged(drawn(few, 3), slowed(drawn(few, 4), baseline, 1.03))
    right, there, _ = found(outcome, baseline, Judgement.SLOWER)
    assert right == there


def test_a_machine_on_which_cells_wander_shows_in_the_duplicates() -> None:
    """Ten times the effect that was measured on an H200, in both runs."""
    outcome = judged(drawn(RUN1, 1, cell_sd=0.008), drawn(RUN1, 2, cell_sd=0.008), anchored=False)
    assert counts(outcome)[Judgement.SLOWER] + counts(outcome)[Judgement.FASTER] <= 2
    moves = [abs(t.shift.log) > 0.006 for t in outcome.timed]
    assert sum(moves) > 50, "the data would be no test of it"


def test_what_all_duplicates_have_in_common_is_no_effect_of_cells() -> None:
    """A second set that is 3% off at every shape alike is another kernel, not a machine on which cells wander."""
    off = tuple(
        replace(e, duplicate={**e.duplicate, "samples": {COLD: [1.03 * s for s in e.duplicate_samples(COLD)[0]]}})
        for e in RUN2.ends
    )
    assert counts(judged(RUN1, changed(RUN2, ends=off)))[Judgement.SAME] > 220


def moved_anchors(bf16: float, fp16: float, twin: float) -> Outcome:
    """The first shape of a run, its baselines and the duplicate of one moved by these factors."""
    base = replace(RUN1, comparisons=RUN1.comparisons[:1])
    records, close = base.records, base.ends[0]
    factors = {BASELINE: bf16, FP16: fp16}
    again = tuple(
        replace(one, samples={COLD: tuple(factors.get(one.kernel, 1.0) * s for s in one.samples[COLD])})
        for one in records
    )
    samples = {COLD: tuple(twin * s for s in close.duplicate_samples(COLD)[0])}
    ends = (replace(close, duplicate={**close.duplicate, "samples": samples}),)
    return judged(base, changed(base, again, ends))


@pytest.mark.parametrize(
    ("bf16", "fp16", "twin", "moved"),
    [(1.04, 1.04, 1.04, 1.04), (1.04, 1.06, 1.04, 1.04), (1.04, 1.06, 1.0, 1.02), (1.04, 0.96, 1.04, 1.0)],
)
def test_the_machine_moved_as_far_as_its_anchors_agree(bf16, fp16, twin, moved) -> None:
    outcome = moved_anchors(bf16, fp16, twin)
    (shape,) = outcome.shapes
    assert shape.moved == pytest.approx(moved, abs=1e-3)
    others = {t.verdict for t in shape.timed if t.shift.new.kernel not in (BASELINE, FP16)}
    if moved != 1.02:  # where the duplicate is not what it duplicates, cells wander
        assert others == {Judgement.SAME if moved == 1.0 else Judgement.INCONCLUSIVE}


@pytest.mark.parametrize("anchored", [True, False])
def test_everything_slower_is_the_machine_where_the_code_is_the_same_and_a_change_where_it_is_not(anchored) -> None:
    outcome = judged(RUN1, drawn(RUN1, 5, shape_factor=lambda index: 1.05), anchored=anchored)
    expected = Judgement.INCONCLUSIVE if anchored else Judgement.SLOWER
    assert counts(outcome)[expected] > 0.95 * 280
    assert (outcome.mean.interval[0] > 1) is not anchored


def test_the_mean_is_no_surer_than_one_run_is() -> None:
    """280 cells share one run: their mean is not sqrt(280) times as sure as one of them."""
    spans = []
    for seed in range(10):
        outcome = judged(drawn(RUN1, 2 * seed), drawn(RUN1, 2 * seed + 1))
        low, high = outcome.mean.interval
        assert low < 1 < high
        spans.append(high / low - 1)
        assert all(b.interval[1] / b.interval[0] > high / low for b in outcome.by_cell.values())
    assert 0.0015 < min(spans) <= max(spans) < 0.0035


def test_the_mean_is_geometric() -> None:
    outcome = judged(
        *(results(seconds=s) for s in ({BASELINE: 1e-5, FP8: 1e-5}, {BASELINE: 2e-5, FP8: 0.5e-5})),
        anchored=False,
    )
    assert outcome.mean.ratio == pytest.approx(1.0, rel=0.002)
    assert outcome.by_cell[FP8].ratio == pytest.approx(0.5, rel=0.002)


def results(
    *,
    seconds: dict[str, float],
    statuses: dict[str, Status] | None = None,
    n: int = 12,
    shapes: int = 3,
    noise=0.001,
    seed=0,
) -> Results:
    """A small run: `seconds` by kernel at several shapes, or a status that is not `ok`."""
    rng = random.Random(seed)
    records, ends = [], []
    for index in range(shapes):
        shape = GemmShape(m=16 * (index + 1), n=256, k=128)
        own = []
        for kernel, middle in seconds.items():
            status = (statuses or {}).get(kernel, Status.OK)
            taken = [middle * rng.gauss(1, noise) for _ in range(n)] if status is Status.OK else []
            reason = "" if status is Status.OK else f"{status.value} here"
            own.append(record(kernel, *taken, comparison=index, shape=shape, status=status, reason=reason))
        records += own
        ends.append(replace(end(own), duplicate={}))
    return in_file(records, ends)


def verdicts(base: Results, new: Results, **options) -> set[Judgement]:
    return set(counts(judged(base, new, anchored=False, **options)))


def test_the_threshold_parts_what_is_the_same_from_what_changed() -> None:
    base, new = results(seconds={FP8: 1e-5}), results(seconds={FP8: 1.02e-5}, seed=1)
    assert verdicts(base, new) == {Judgement.SLOWER}
    assert verdicts(new, base) == {Judgement.FASTER}
    assert verdicts(base, new, threshold=0.05) == {Judgement.SAME}
    assert verdicts(base, new, threshold=0.0) == {Judgement.SLOWER}
    assert verdicts(base, base, threshold=0.0) == {Judgement.INCONCLUSIVE}, "nothing is shown to be no change at all"
    assert len(judged(base, new, anchored=False).beyond()) == 3
    assert judged(new, base, anchored=False).beyond() == ()


def test_a_cell_that_is_slower_by_less_than_the_threshold_is_not_beyond_it() -> None:
    base, new = results(seconds={FP8: 1e-5}, noise=1e-5), results(seconds={FP8: 1.0099e-5}, noise=1e-5)
    outcome = judged(base, new, anchored=False)
    assert counts(outcome) == {Judgement.SLOWER: 3}, "it may be 1.2% slower: not shown to be the same"
    assert outcome.beyond() == ()


def test_too_few_samples_are_inconclusive_and_without_an_interval() -> None:
    outcome = judged(results(seconds={FP8: 1e-5}, n=5), results(seconds={FP8: 2e-5}))
    assert set(counts(outcome)) == {Judgement.INCONCLUSIVE}
    assert [t.interval for t in outcome.timed] == [None] * 3
    assert (outcome.mean, outcome.by_cell) == (None, {})


def test_noise_leaves_a_change_inconclusive() -> None:
    base, new = (results(seconds={FP8: s}, noise=0.05) for s in (1e-5, 1.02e-5))
    assert verdicts(base, new) == {Judgement.INCONCLUSIVE}


def test_several_processes_are_the_random_effect() -> None:
    """Medians of processes 5% apart tell less than the blocks within them."""

    def run(scale: float, apart: float) -> Results:
        blocks = tuple(range(24))
        taken = tuple(scale * (1 + (apart if b >= 12 else 0.0)) * (1 + 1e-4 * (b % 5)) for b in blocks)
        one = record(FP8, samples={"time_host": taken}, processes=(0,) * 12 + (1,) * 12)
        return in_file([one], [replace(end([one]), duplicate={})])

    assert verdicts(run(1e-5, 0.0), run(1.05e-5, 0.0)) == {Judgement.SLOWER}
    assert verdicts(run(1e-5, 0.05), run(1.05e-5, 0.05)) == {Judgement.INCONCLUSIVE}


def test_many_cells_raise_the_bar_for_each() -> None:
    """What one cell alone is called slower for is inconclusive among 300 that did not change."""

    def run(scale: float, shapes: int) -> Results:
        made = results(seconds={FP8: 1e-5}, noise=1e-6, shapes=shapes)
        first = made.records[0]
        first = replace(first, samples={"time_host": tuple(scale * s for s in first.samples["time_host"])})
        return changed(made, [first, *made.records[1:]])

    few = judged(run(1.0, 1), run(1.0052, 1), anchored=False, threshold=0.001).timed[0]
    many = judged(run(1.0, 300), run(1.0052, 300), anchored=False, threshold=0.001).timed[0]
    assert (few.verdict, many.verdict) == (Judgement.SLOWER, Judgement.INCONCLUSIVE)
    assert many.interval == pytest.approx(few.interval)


@pytest.mark.parametrize(
    ("before", "after", "worse"),
    [
        (Status.OK, Status.INCORRECT, True),
        (Status.OK, Status.UNSUPPORTED, True),
        (Status.OK, Status.IMPLAUSIBLE, True),
        (Status.OK, Status.SKIPPED, False),
        (Status.INCORRECT, Status.OK, False),
        (Status.UNSUPPORTED, Status.CRASHED, True),
        (Status.CRASHED, Status.INCORRECT, False),
        (Status.FAILED, Status.UNSUPPORTED, False),
    ],
)
def test_a_status_is_worse_where_a_cell_is_lost_or_newly_broken(before, after, worse) -> None:
    seconds = {BASELINE: 1e-5, FP8: 1e-5}
    outcome = judged(results(seconds=seconds, statuses={FP8: before}), results(seconds=seconds, statuses={FP8: after}))
    assert [change.worse for change in outcome.changes] == [worse] * 3
    assert len(outcome.worse()) == 3 * worse
    assert len(outcome.timed) == 3


def test_cells_that_neither_run_timed_are_counted_and_no_change() -> None:
    seconds = {BASELINE: 1e-5, FP8: 1e-5}
    refused = results(seconds=seconds, statuses={FP8: Status.UNSUPPORTED})
    outcome = judged(refused, refused)
    assert (outcome.untimed, outcome.changes) == (3, ())
    nothing = results(seconds=seconds, statuses=dict.fromkeys(seconds, Status.UNSUPPORTED))
    assert judged(nothing, nothing).untimed == 6
    broken = results(seconds=seconds, statuses=dict.fromkeys(seconds, Status.CRASHED))
    assert len(judged(results(seconds=seconds), broken).worse()) == 6
    assert judged(results(seconds=seconds), broken).measure is None


def test_cells_of_one_file_alone_are_kept_apart() -> None:
    both, more = results(seconds={FP8: 1e-5}), results(seconds={FP8: 1e-5, BASELINE: 1e-5}, shapes=4)
    outcome = judged(both, more)
    assert len(outcome.timed) == 3
    assert [one.kernel for one in outcome.only_new] == [BASELINE] * 3 + [FP8, BASELINE]
    assert outcome.only_base == ()
    assert not any(shape.pair.alike for shape in outcome.shapes)
    assert len(judged(more, both).only_base) == 5
    assert all(shape.pair.alike for shape in judged(both, both).shapes)


def test_the_same_cell_twice_is_paired_in_order_and_labels_tell_cells_apart() -> None:
    """A list of shapes may hold one twice: qkv and gate may be of the same sizes."""

    def run(first: float, second: float, labels=({}, {})) -> Results:
        ones = [record(FP8, *[s] * 6, comparison=i, labels=labels[i]) for i, s in enumerate((first, second))]
        ends = tuple(replace(end([one]), duplicate={}) for one in ones)
        return in_file(ones, ends)

    assert [t.ratio for t in judged(run(1e-5, 2e-5), run(2e-5, 2e-5)).timed] == pytest.approx([2.0, 1.0])
    named = run(1e-5, 2e-5, ({"layer": "a"}, {"layer": "b"}))
    swapped = run(2e-5, 1e-5, ({"layer": "b"}, {"layer": "a"}))
    assert [t.ratio for t in judged(named, swapped).timed] == pytest.approx([1.0, 1.0])


def test_files_with_nothing_in_common_are_refused_with_the_reason() -> None:
    with pytest.raises(ValueError, match="no cell is in both files: kernel is pytorch_fp8"):
        judged(results(seconds={FP8: 1e-5}), results(seconds={BASELINE: 1e-5}))
    host = results(seconds={FP8: 1e-5})
    cold = [
        replace(r, samples={COLD: r.samples["time_host"]}, blocks={COLD: r.blocks["time_host"]}) for r in host.records
    ]
    with pytest.raises(ValueError, match="no cell was timed by the same measure"):
        judged(host, changed(host, cold))


def test_samples_that_overflow_nothing_have_a_verdict() -> None:
    tame, far = results(seconds={FP8: 1e-5}), {"time_host": (1e-12,) * 7 + (1e9,) * 5}
    wild = changed(tame, [replace(one, samples=far) for one in tame.records])
    outcome = judged(tame, wild)
    assert set(counts(outcome)) == {Judgement.INCONCLUSIVE}
    assert [t.interval for t in outcome.timed] == [None] * 3
    assert outcome.mean == Mean(3, pytest.approx(1e-7, rel=0.01), None)
