"""The table: every cell a line, nothing cut off, no number where nothing was measured."""

from __future__ import annotations

from dataclasses import replace

from made_results import LABELS, record

from w8a8_bench.kernel import Status
from w8a8_bench.metrics import BASELINE
from w8a8_bench.problem import Activations, GemmShape
from w8a8_bench.report import REPORTS
from w8a8_bench.report.table import EMULATED_NOTE, render

INT8, FP8 = "pytorch_i8_i8_bf16_scaled_mm", "pytorch_fp8_fp8_bf16_scaled_mm"
SHAPE = GemmShape(m=16, n=64, k=32)


def made(kernel, *seconds, **changes):
    return record(kernel, *seconds, shape=SHAPE, **changes)


BASE = made(BASELINE, *[4e-6] * 6)
FAST = made(INT8, 1.9e-6, *[2e-6] * 4, 2.1e-6)
REFUSED = made(FP8, status=Status.UNSUPPORTED, reason="needs sm_89", error=None)


def row(text: str, kernel: str) -> list[str]:
    (line,) = [line for line in text.splitlines() if line.startswith(kernel)]
    return line.removeprefix(kernel).split()


def test_table_reads_as_promised() -> None:
    assert render([BASE, FAST, REFUSED]) == (
        "m=16 n=64 k=32\n"
        "kernel                                     median  ±95%   TFLOP/s  vs bf16    error  status       reason\n"
        "pytorch_bf16_bf16_bf16_matmul-no-scales  4.000 us  ±0.0%  0.01638    1.00x  1.7e-03  ok\n"
        "pytorch_i8_i8_bf16_scaled_mm             2.000 us  ±5.0%  0.03277    2.00x  1.7e-03  ok\n"
        "pytorch_fp8_fp8_bf16_scaled_mm                  -  -            -        -        -  unsupported  needs sm_89"
    )


def test_without_a_baseline_there_is_no_speedup() -> None:
    assert row(render([FAST]), INT8)[4] == "-"
    skipped = made(BASELINE, status=Status.SKIPPED, reason="late")
    assert row(render([skipped, FAST]), INT8)[4] == "-"


def test_too_few_samples_have_no_interval() -> None:
    assert row(render([made(INT8, 1e-6)]), INT8)[:3] == ["1.000", "us", "-"]


def test_a_wrong_answer_shows_its_error_and_no_time() -> None:
    wrong = made(INT8, status=Status.INCORRECT, reason="row 3", error={"relative": float("inf"), "worst": 1e9})
    assert row(render([wrong]), INT8) == ["-", "-", "-", "-", "inf", "incorrect", "row", "3"]


def test_shapes_and_labels_part_the_groups_in_order() -> None:
    one = replace(FAST, comparison=1, labels=LABELS)
    two = replace(FAST, comparison=2, labels={**LABELS, "layer": "o_proj", "note": "x"})
    titles = [
        line for line in render([one, two, replace(BASE, comparison=1, labels=LABELS)]).splitlines() if "m=" in line
    ]
    assert titles == [
        "m=16 n=64 k=32  (meta-llama/Llama-3-8b, qkv_proj, TP2)",
        "m=16 n=64 k=32  (meta-llama/Llama-3-8b, o_proj, TP2)  note=x",
    ]


def test_a_baseline_of_another_comparison_is_not_compared_with() -> None:
    assert row(render([replace(BASE, comparison=1), replace(FAST, comparison=2)]), INT8)[4] == "-"


def test_parts_of_dynamic_activations_have_columns_of_their_own() -> None:
    parts = {"time_host": (3e-6,), "time_host_quant": (1e-6,), "time_host_gemm": (2e-6,)}
    dynamic = made(INT8, 3e-6, samples=parts, activations=Activations.DYNAMIC)
    text = render([dynamic, BASE])
    assert row(text, f"{INT8}[dynamic]")[:7] == ["3.000", "us", "-", "1.000", "us", "2.000", "us"]
    assert row(text, BASELINE)[:5] == ["4.000", "us", "±0.0%", "-", "-"]
    assert "quant" not in render([BASE])


def test_emulated_fp8_is_never_shown_without_saying_so() -> None:
    text = render([BASE, made(FP8, 1e-6, flags=("emulated", "power_capped"))])
    assert row(text, FP8)[-3:] == ["ok", "emulated,", "power_capped"]
    assert text.splitlines()[-1] == EMULATED_NOTE
    refused = render([replace(REFUSED, flags=("emulated",))])
    assert "emulat" not in refused


def test_an_unsettled_cell_says_so_beside_its_interval() -> None:
    assert "±5.0% unsettled" in render([replace(FAST, flags=("unsettled",))])


def test_the_measure_that_is_asked_for_is_shown() -> None:
    both = replace(FAST, samples={**FAST.samples, "time_cold_l2": (7e-6,) * 6})
    assert row(render([both], measure="time_cold_l2"), INT8)[0] == "7.000"
    assert row(render([FAST], measure="time_cold_l2"), INT8)[0] == "-"


def test_a_long_reason_is_kept_whole_and_can_not_break_the_line() -> None:
    reason = "first\nsecond\x1b[31m " + "x" * 400
    (line,) = [line for line in render([replace(REFUSED, reason=reason)]).splitlines() if FP8 in line]
    assert line.endswith("first second [31m " + "x" * 400)


def test_no_records_are_no_table_and_no_crash() -> None:
    assert render([]) == ""


def test_the_table_is_listed() -> None:
    assert REPORTS["table"]([BASE]) == render([BASE])
