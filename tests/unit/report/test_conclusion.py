"""The lines that a sweep ends with, from its records alone."""

from __future__ import annotations

from copies import replace
from made_results import end, in_file, record

from w8a8_bench.kernel import Status
from w8a8_bench.problem import GemmShape
from w8a8_bench.problem.kernel_name import BASELINE
from w8a8_bench.report.comparable_runs import ResultSet, make_sets
from w8a8_bench.report.conclusion import answer, broken

INT8, FP8 = "pytorch_i8_i8_bf16_scaled_mm", "pytorch_fp8_fp8_bf16_scaled_mm"
OTHER = "cutlass_i8_i8_bf16_scaled_mm"


def results(*comparisons, duplicates=()) -> ResultSet:
    """A set of comparisons, each a mapping of kernels to their time in us, or to a time and changes of the record."""
    records, ends = [], []
    for index, times in enumerate(comparisons):
        shape = GemmShape(m=16 * (index + 1), n=64, k=64)
        of = []
        for kernel, time in times.items():
            microseconds, changes = time if isinstance(time, tuple) else (time, {})
            samples = [1e-6 * microseconds * factor for factor in (0.99, 1.0, 1.0, 1.0, 1.0, 1.0, 1.01)]
            of.append(record(kernel, *samples, comparison=index, shape=shape, **changes))
        duplicate = {}
        if index < len(duplicates):
            samples = tuple(sample * duplicates[index] for sample in of[0].samples["time_host"])
            blocks = {"time_host": tuple(range(len(samples)))}
            duplicate = {
                "kernel": of[0].kernel,
                "cell": of[0].text,
                "samples": {"time_host": samples},
                "blocks": blocks,
            }
        records += of
        ends.append(replace(end(of), duplicate=duplicate))
    (one,) = make_sets([in_file(records, ends)])
    return one


def test_the_fastest_kernel_is_named_with_its_mean_and_its_range():
    one = results({BASELINE: 8, INT8: 4, OTHER: 2}, {BASELINE: 8, INT8: 4, OTHER: 8}, duplicates=(1.0, 1.02))
    fastest, sure = answer(one)
    range_ = "geometric mean of 2 shapes, 2.00x to 2.00x"
    assert fastest == f"fastest: {INT8}, 2.00x as fast as bf16 ({range_}); {OTHER} is within 1%"
    assert sure.startswith("how sure: that speed-up is known to ±")
    assert "differs by 1.00% (median of 2 shapes), 2.00% at most" in sure


def test_a_kernel_that_ran_at_fewer_shapes_is_not_the_answer():
    fastest, _ = answer(results({BASELINE: 8, INT8: 4, OTHER: 1}, {BASELINE: 8, INT8: 4}, duplicates=(1.0,)))
    assert fastest.startswith(f"fastest: {INT8}, 2.00x")


def test_bf16_is_the_answer_if_no_8_bit_kernel_beats_it():
    fastest, _ = answer(results({BASELINE: 8, INT8: 16}))
    assert fastest == f"fastest: bf16; the best 8-bit kernel, {INT8}, is 0.50x as fast as bf16 (one shape)"


def test_emulated_times_are_the_answer_only_if_nothing_else_was_timed_and_say_so():
    emulated = (2, {"flags": ("emulated",)})
    fastest, _ = answer(results({BASELINE: 8, FP8: emulated, INT8: 4}))
    assert fastest.startswith(f"fastest: {INT8}")
    fastest, _ = answer(results({BASELINE: 8, FP8: emulated}))
    assert fastest.endswith("emulated in fp32, so this says nothing about FP8")


def test_a_speed_up_that_is_hardly_known_is_called_about():
    noisy = (4, {"samples": {"time_host": (2e-6, 3e-6, 4e-6, 4e-6, 5e-6, 6e-6, 7e-6)}})
    fastest, sure = answer(results({BASELINE: 8, INT8: noisy}))
    assert fastest == f"fastest: {INT8}, about 2x as fast as bf16 (one shape)"
    assert "that speed-up is known to ±" in sure


def test_without_bf16_there_is_no_speed_up_and_without_times_no_answer():
    assert (
        answer(results({INT8: 4, OTHER: 2}))[0]
        == f"fastest: {OTHER}, over one shape; bf16 was not timed, so there is no speed-up"
    )
    assert answer(results({BASELINE: 4}))[0] == f"fastest: {BASELINE}, over one shape; no 8-bit kernel was timed at it"
    refused = (1, {"status": Status.UNSUPPORTED, "reason": "no GPU", "samples": {}})
    assert answer(results({OTHER: refused})) == ["fastest: nothing was timed, since no kernel that was asked for ran"]


def test_noise_and_unsettled_times_are_named():
    _, sure = answer(results({BASELINE: 8, INT8: (4, {"flags": ("unsettled",)})}, duplicates=(1.2,)))
    assert "this machine was too busy: the same kernel timed twice differs by 20.00%" in sure
    assert sure.endswith("1 of 2 times is not settled")


def test_broken_and_skipped_cells_are_counted():
    made = [record(INT8, status=status, reason="x") for status in (Status.INCORRECT, Status.SKIPPED, Status.SKIPPED)]
    assert broken(made) == "1 cell incorrect, 2 cells skipped"
    assert broken([record(INT8, 1e-6), record(INT8, status=Status.UNSUPPORTED, reason="x")]) is None
