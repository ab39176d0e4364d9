"""What several processes and passes measured becomes one comparison, in which every sample knows its own process."""

from __future__ import annotations

import json

import pytest
from copies import replace
from made_results import SHAPE, record
from made_results import end as made_end

from w8a8_bench.analysis import metrics
from w8a8_bench.kernel import Status
from w8a8_bench.problem.kernel_name import BASELINE
from w8a8_bench.results.decoding import decode
from w8a8_bench.results.merge import merge_measures, merge_processes
from w8a8_bench.results.record import ComparisonEnd, Record, to_json
from w8a8_bench.timing.settings import Settings, StopRule

INT8 = "pytorch_i8_i8_bf16_scaled_mm"
SETTINGS = Settings(stop=StopRule(1, 9, target=0.01), processes=2)


def duplicate(*seconds: float, kernel: str = BASELINE, measure: str = "time_host") -> dict[str, object]:
    blocks = tuple(range(len(seconds)))
    return {"kernel": kernel, "cell": kernel, "samples": {measure: seconds}, "blocks": {measure: blocks}}


def process(base: tuple[float, ...], fast: tuple[float, ...], **changes: object):
    records = [record(BASELINE, *base), record(INT8, *fast)]
    blocks = max(len(base), len(fast))
    end = replace(made_end(records), blocks=blocks, duplicate=duplicate(*base), machine={}, memory_bytes=None)
    return records, replace(end, **changes)


def through_json(merged):
    records, end = merged
    for one in (*records, end):
        assert decode(json.dumps(to_json(one), allow_nan=False).encode()) == one
    return merged


def test_one_process_stays_as_it_is():
    only = process((1.0, 2.0), (3.0, 4.0))
    assert merge_processes([only], SETTINGS) is only


def test_blocks_of_processes_stay_apart_and_samples_know_their_process():
    parts = [process((1.0, 2.0, 3.0), (4.0, 5.0, 6.0)), process((7.0, 8.0), (9.0, 10.0)), process((11.0,), (12.0,))]
    (base, fast), end = through_json(merge_processes(parts, replace(SETTINGS, processes=3)))
    assert base.samples == {"time_host": (1.0, 2.0, 3.0, 7.0, 8.0, 11.0)}
    assert fast.samples == {"time_host": (4.0, 5.0, 6.0, 9.0, 10.0, 12.0)}
    for one in (base, fast):
        numbers = one.blocks["time_host"]
        assert len(set(numbers)) == len(numbers) == 6
        assert one.groups("time_host") == (0, 0, 0, 1, 1, 2)
    assert base.blocks == fast.blocks, "samples of one block must stay paired"
    assert end.blocks == 6
    assert end.cells == 2


def test_a_measure_with_more_blocks_than_the_headline_does_not_run_into_the_next_process():
    samples = {"time_cold_l2": (1.0,), "time_hot_l2": (2.0, 3.0, 4.0)}
    parts = [([made := record(INT8, samples=samples)], made_end([made])) for _ in range(2)]
    settings = replace(SETTINGS, measures=("time_cold_l2", "time_hot_l2"))
    (one,), _ = through_json(merge_processes(parts, settings))
    assert len(set(one.blocks["time_hot_l2"])) == 6
    assert one.groups("time_hot_l2") == (0, 0, 0, 1, 1, 1)
    assert one.groups("time_cold_l2") == (0, 1)


def test_speedups_and_the_noise_floor_are_paired_within_processes():
    parts = [process((2.0, 4.0), (1.0, 2.0)), process((6.0, 6.0), (1.0, 1.0))]
    (base, fast), end = merge_processes(parts, SETTINGS)
    assert metrics.speedup(fast, base, "time_host").median == pytest.approx(4.0), "2 in one process and 6 in the other"
    assert metrics.noise_floor(end, [base, fast], "time_host").median == pytest.approx(1.0)


def test_clocks_stay_parallel_to_samples():
    made = [record(INT8, 1.0, 2.0, clock_mhz={"time_host": (1980.0, 1965.0)}) for _ in range(2)]
    (one,), _ = through_json(merge_processes([([r], made_end([r])) for r in made], SETTINGS))
    assert one.clock_mhz == {"time_host": (1980.0, 1965.0, 1980.0, 1965.0)}
    lacking = [made[0], replace(made[1], clock_mhz={})]
    (one,), _ = through_json(merge_processes([([r], made_end([r])) for r in lacking], SETTINGS))
    assert one.clock_mhz == {}


@pytest.mark.parametrize("faulty", [0, 1])
def test_a_fault_in_one_process_is_the_cells_status(faulty):
    parts = [process((1.0,), (2.0,)), process((1.0,), (2.0,))]
    wrong = replace(parts[faulty][0][1], status=Status.INCORRECT, reason="row 3", samples={}, blocks={})
    parts[faulty][0][1] = wrong
    (base, fast), _ = through_json(merge_processes(parts, SETTINGS))
    assert (fast.status, fast.reason, fast.samples) == (Status.INCORRECT, "row 3", {})
    assert base.status is Status.OK
    assert len(base.samples["time_host"]) == 2


def test_unsettled_is_judged_anew_from_the_processes():
    wide = [process((1.0,) * 3, (1.0,) * 3), process((1.0,) * 3, (2.0,) * 3)]
    (base, fast), _ = merge_processes(wide, SETTINGS)
    assert (base.flags, fast.flags) == ((), ("unsettled",))
    flagged = [process((1.0,) * 3, (1.0,) * 3) for _ in range(2)]
    for records, _ in flagged:
        records[1] = replace(records[1], flags=("unsettled", "power_capped"))
    (_, fast), _ = merge_processes(flagged, SETTINGS)
    assert fast.flags == ("power_capped",), "too few samples in a process are enough over several"


def test_flags_of_any_process_are_kept_once():
    parts = [process((1.0,), (2.0,)), process((1.0,), (2.0,))]
    parts[1][0][0] = replace(parts[1][0][0], flags=("power_capped",))
    for records, _ in parts:
        records[1] = replace(records[1], flags=("emulated",))
    (base, fast), _ = merge_processes(parts, SETTINGS)
    assert (base.flags, fast.flags) == (("power_capped",), ("emulated",))


def test_duplicates_are_merged_like_the_samples():
    parts = [process((1.0, 2.0), (3.0, 4.0)), process((5.0, 6.0), (7.0, 8.0))]
    (base, _), end = merge_processes(parts, SETTINGS)
    assert end.duplicate["kernel"] == BASELINE
    assert end.duplicate_samples("time_host") == (base.samples["time_host"], base.blocks["time_host"])


def test_a_duplicate_with_more_blocks_than_any_cell_does_not_run_into_the_next_process():
    parts = [process((1.0,), (2.0,), duplicate=duplicate(1.0, 1.0, 1.0)) for _ in range(2)]
    (base, _), end = merge_processes(parts, SETTINGS)
    _, blocks = end.duplicate_samples("time_host")
    assert len(set(blocks)) == 6
    assert [base.processes[block] for block in blocks] == [0, 0, 0, 1, 1, 1]


@pytest.mark.parametrize("other", [{}, duplicate(1.0, kernel=INT8)], ids=["none", "of another kernel"])
def test_duplicates_that_are_not_of_the_same_kernel_are_left_out(other):
    parts = [process((1.0,), (2.0,)), process((1.0,), (2.0,), duplicate=other)]
    assert merge_processes(parts, SETTINGS)[1].duplicate == {}


def test_costs_add_up_and_memory_is_the_peak():
    parts = [
        process((1.0,), (2.0,), seconds={"timing": 1.0, "check": 2.0}, memory_bytes=5),
        process((1.0,), (2.0,), seconds={"timing": 3.0}, memory_bytes=7),
    ]
    _, end = through_json(merge_processes(parts, SETTINGS))
    assert end.seconds == {"timing": 4.0, "check": 2.0}
    assert end.memory_bytes == 7


@pytest.mark.parametrize("disturbed", [0, 1])
def test_what_disturbed_any_process_is_said(disturbed):
    machines = [{"telemetry": "NVML", "voided_blocks": 0, "other_processes": 0} for _ in range(2)]
    machines[disturbed] = {"telemetry": "NVML", "voided_blocks": 3, "other_processes": 2}
    _, end = through_json(merge_processes([process((1.0,), (2.0,), machine=one) for one in machines], SETTINGS))
    assert end.machine["processes"] == machines
    assert end.machine["voided_blocks"] == 3
    assert end.machine["other_processes"] == 2


def timed(measure: str, *seconds: float, **changes: object) -> Record:
    clocks = (1980.0,) * len(seconds)
    made = record(INT8, samples={measure: seconds}, launches_per_sample={measure: 4}, clock_mhz={measure: clocks})
    return replace(made, **changes)


def closing(records, **changes: object) -> ComparisonEnd:
    return replace(made_end(records), duplicate={}, machine={}, memory_bytes=None, **changes)


def test_passes_put_their_measures_side_by_side():
    cold, kernel = [timed("time_cold_l2", 2.0, 3.0)], [timed("time_kernel", 1.0)]
    ends = [
        closing(cold, seconds={"timing": 1.0}),
        closing(kernel, seconds={"timing": 2.0, "check": 0.5}),
    ]
    ends[0] = replace(ends[0], duplicate=duplicate(2.0, kernel=INT8, measure="time_cold_l2"), memory_bytes=3)
    ends[1] = replace(ends[1], duplicate=duplicate(1.0, kernel=INT8, measure="time_kernel"), memory_bytes=9)
    (one,), end = through_json(merge_measures([(cold, ends[0]), (kernel, ends[1])]))
    assert one.samples == {"time_cold_l2": (2.0, 3.0), "time_kernel": (1.0,)}
    assert one.blocks == {"time_cold_l2": (0, 1), "time_kernel": (0,)}
    assert one.launches_per_sample == {"time_cold_l2": 4, "time_kernel": 4}
    assert one.clock_mhz == {"time_cold_l2": (1980.0, 1980.0), "time_kernel": (1980.0,)}
    assert end.duplicate_samples("time_cold_l2") == ((2.0,), (0,))
    assert end.duplicate_samples("time_kernel") == ((1.0,), (0,))
    assert (end.seconds, end.memory_bytes) == ({"timing": 3.0, "check": 0.5}, 9)


@pytest.mark.parametrize("status", [Status.INCORRECT, Status.CRASHED, Status.TIMED_OUT, Status.IMPLAUSIBLE])
def test_a_cell_that_one_pass_can_not_trust_has_no_time(status):
    cold = [timed("time_cold_l2", 2.0)]
    kernel = [record(INT8, status=status, reason="no")]
    for passes in ([cold, kernel], [kernel, cold]):
        (one,), _ = through_json(merge_measures([(records, closing(records)) for records in passes]))
        assert (one.status, one.reason, one.samples) == (status, "no", {})


def test_what_a_further_pass_could_not_take_is_said_and_costs_no_time_of_the_first():
    cold = [timed("time_cold_l2", 2.0)]
    kernel = [record(INT8, status=Status.FAILED, reason="no CUPTI")]
    (one,), _ = through_json(merge_measures([(records, closing(records)) for records in (cold, kernel)]))
    assert (one.status, one.samples) == (Status.OK, {"time_cold_l2": (2.0,)})
    assert one.reason == "a further measure is missing, failed: no CUPTI"


def test_one_pass_loses_nothing():
    records = [timed("time_cold_l2", 2.0, flags=("power_capped",), rotation={"sets": 2, "bytes": 8, "scrubbed": 0})]
    end = closing(records)
    assert merge_measures([(records, end)]) == (records, end)


def test_a_rotation_that_only_the_second_pass_went_through_is_kept():
    rotation = {"sets": 7, "bytes": 1 << 20, "scrubbed": 0}
    hot, kernel = [timed("time_hot_l2", 2.0)], [timed("time_kernel", 1.0, rotation=rotation)]
    (one,), _ = merge_measures([(hot, closing(hot)), (kernel, closing(kernel))])
    assert one.rotation == rotation


def test_passes_and_processes_together_make_one_comparison():
    def measured(factor: float):
        cold = [timed("time_cold_l2", 2.0 * factor, 3.0 * factor)]
        kernel = [timed("time_kernel", 1.0 * factor)]
        return merge_measures([(cold, closing(cold)), (kernel, closing(kernel))])

    settings = replace(SETTINGS, measures=("time_cold_l2", "time_kernel"))
    (one,), end = through_json(merge_processes([measured(1.0), measured(2.0)], settings))
    assert one.samples == {"time_cold_l2": (2.0, 3.0, 4.0, 6.0), "time_kernel": (1.0, 2.0)}
    assert one.groups("time_cold_l2") == (0, 0, 1, 1)
    assert one.groups("time_kernel") == (0, 1)
    assert end.shape == SHAPE
