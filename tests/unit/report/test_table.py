"""The table: every cell a line, nothing cut off, no number where nothing was measured."""

from __future__ import annotations

import re

from copies import replace
from made_results import LABELS, end, record

from w8a8_bench.kernel import Status
from w8a8_bench.problem import BLOCKWISE, Activations, GemmShape, Scaling
from w8a8_bench.problem.kernel_name import BASELINE
from w8a8_bench.report.table import EMULATED_NOTE, View, render, render_schemes, why_not_here

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


ALL_ROWS = View(show_unsupported=True)


def test_table_reads_as_promised() -> None:
    assert render([BASE, FAST, REFUSED]) == (
        "m=16 n=64 k=32  time_host\n"
        "kernel                                     median  ±95%    TFLOP/s  vs bf16    error\n"
        "pytorch_bf16_bf16_bf16_matmul-no-scales  4.000 us  ±0.00%  0.01638    1.00x  1.7e-03\n"
        "pytorch_i8_i8_bf16_scaled_mm             2.000 us  ±4.51%  0.03277    2.00x  1.7e-03\n"
        "did not run: pytorch_fp8_fp8_bf16_scaled_mm: needs sm_89"
    )


def test_kernels_that_can_not_run_are_rows_where_asked_for() -> None:
    assert render([BASE, FAST, REFUSED], view=ALL_ROWS) == (
        "m=16 n=64 k=32  time_host\n"
        "kernel                                     median  ±95%    TFLOP/s  vs bf16    error  status\n"
        "pytorch_bf16_bf16_bf16_matmul-no-scales  4.000 us  ±0.00%  0.01638    1.00x  1.7e-03  ok\n"
        "pytorch_i8_i8_bf16_scaled_mm             2.000 us  ±4.51%  0.03277    2.00x  1.7e-03  ok\n"
        "pytorch_fp8_fp8_bf16_scaled_mm                  -  -             -        -        -  unsupported\n"
        "    needs sm_89"
    )


def refused_by(provider: str, reason: str = "no GPU", **changes):
    return replace(REFUSED, kernel=f"{provider}_fp8_fp8_bf16_scaled_mm", provider=provider, reason=reason, **changes)


def test_a_library_that_ran_nothing_is_left_to_the_summary_of_the_run() -> None:
    records = [BASE, refused_by("cutlass"), refused_by("triton"), refused_by("triton", comparison=1)]
    assert render(records[:3]) == render([BASE])
    assert why_not_here(records) == "2 kernels of cutlass and triton"
    assert why_not_here([BASE, REFUSED]) is None, "pytorch ran: its refusals stand at their shapes"
    assert why_not_here([BASE, refused_by("cutlass")]) == "1 kernel of cutlass"


def test_a_shape_at_which_nothing_ran_says_why() -> None:
    lines = render([refused_by("cutlass"), refused_by("triton", "no Triton")]).splitlines()
    assert lines[-2:] == [
        "did not run: cutlass_fp8_fp8_bf16_scaled_mm: no GPU",
        "did not run: triton_fp8_fp8_bf16_scaled_mm: no Triton",
    ]


def test_reasons_of_what_was_asked_for_by_name_are_told_once() -> None:
    view = View(told=set())
    first = render([BASE, refused_by("cutlass"), refused_by("triton", "m=16 is odd")], view=view)
    assert "did not run: cutlass_fp8_fp8_bf16_scaled_mm: no GPU" in first and "m=16 is odd" in first
    second = render([BASE, refused_by("cutlass"), refused_by("triton", "m=17 is odd")], view=view)
    assert "no GPU" not in second and "m=17 is odd" in second


def test_refusals_at_a_shape_are_a_line_a_reason_and_no_more_than_a_few() -> None:
    same = [replace(REFUSED, kernel=kernel) for kernel in (FP8, f"{FP8}_bias")]
    others = [replace(REFUSED, reason=f"reason {number}") for number in range(4)]
    lines = render([BASE, *same, *others]).splitlines()[3:]
    assert lines == [
        f"did not run: {FP8} and 1 more: needs sm_89",
        f"did not run: {FP8}: reason 0",
        f"did not run: {FP8}: reason 1",
        "did not run: 2 more, for other reasons; --show-unsupported lists all",
    ]


WIDE = [
    made(
        record.kernel,
        samples={
            "time_cold_l2": record.samples["time_host"],
            "time_hot_l2": (5e-6,) * 6,
            "host_launch": (3e-6,) * 6,
        },
        labels={**LABELS, "note": "x" * 30},
        scheme_sqnr_db={"normal": 30.0 + number, "outliers": 20.0},
        reason="a reason of many words " * 10,
        flags=("unsettled",),
    )
    for number, record in enumerate([BASE, FAST, made(FP8, *[2e-6] * 6)])
]


def test_every_line_fits_the_terminal() -> None:
    for width in (70, 80, 100, 120, 200):
        for text in (render(WIDE, view=View(width=width)), render_schemes(WIDE, View(width=width))):
            assert max(map(len, text.splitlines())) <= width


def test_the_least_important_columns_go_first_and_measures_asked_for_stay() -> None:
    assert {"error", "SQNR", "outliers"} <= set(header(render(WIDE)))
    fitted = header(render(WIDE, view=View(width=120)))
    assert "error" not in fitted
    assert {"hot", "enqueue"} <= set(fitted)
    narrow = render(WIDE, view=View(width=70)).splitlines()
    assert BASELINE in narrow, "the name stands on a line of its own"
    assert {"hot", "enqueue"} <= set(narrow[narrow.index("kernel") + 1].split())


def test_a_ratio_far_from_settled_is_called_about() -> None:
    loose = replace(FAST, flags=("unsettled",))  # ±4.51%
    assert "about 2.0x" in render([BASE, loose], view=View(target=0.0045))
    assert "2.00x" in render([BASE, loose], view=View(target=0.0046))
    assert "2.00x" in render([BASE, FAST], view=View(target=0.0001)), "it settled, so its ratio stands"
    slow = replace(loose, samples={"time_host": (90e-6, *[100e-6] * 4, 110e-6)})
    assert "about 0.04x" in render([BASE, slow], view=View(target=0.0045))


def test_without_a_baseline_there_is_no_speedup() -> None:
    assert row(render([FAST]), INT8)[4] == "-"
    skipped = made(BASELINE, status=Status.SKIPPED, reason="late")
    assert row(render([skipped, FAST]), INT8)[4] == "-"


def test_too_few_samples_have_no_interval() -> None:
    assert row(render([made(INT8, 1e-6)]), INT8)[:3] == ["1.000", "us", "-"]


def test_a_wrong_answer_shows_its_error_and_no_time() -> None:
    wrong = made(INT8, status=Status.INCORRECT, reason="row 3", error={"relative": float("inf"), "worst": 1e9})
    text = render([wrong])
    assert row(text, INT8) == ["-", "-", "-", "-", "inf", "incorrect"]
    assert text.splitlines()[-1] == "    row 3"


def test_shapes_and_labels_part_the_groups_in_order() -> None:
    one = replace(FAST, comparison=1, labels=LABELS)
    two = replace(FAST, comparison=2, labels={**LABELS, "layer": "o_proj", "note": "x"})
    titles = [
        line for line in render([one, two, replace(BASE, comparison=1, labels=LABELS)]).splitlines() if "m=" in line
    ]
    assert titles == [
        "m=16 n=64 k=32  (meta-llama/Llama-3-8b, qkv_proj, TP2)  time_host",
        "m=16 n=64 k=32  (meta-llama/Llama-3-8b, o_proj, TP2)  note=x  time_host",
    ]


def test_a_baseline_of_another_comparison_is_not_compared_with() -> None:
    assert row(render([replace(BASE, comparison=1), replace(FAST, comparison=2)]), INT8)[4] == "-"


def test_parts_of_dynamic_activations_have_columns_of_their_own() -> None:
    parts = {"time_host": (3e-6,), "time_host_quant": (1e-6,), "time_host_gemm": (2e-6,)}
    dynamic = made(INT8, 3e-6, samples=parts, activations=Activations.DYNAMIC)
    text = render([dynamic, BASE])
    assert row(text, f"{INT8}[dynamic]")[:7] == ["3.000", "us", "-", "1.000", "us", "2.000", "us"]
    assert row(text, BASELINE)[:5] == ["4.000", "us", "±0.00%", "-", "-"]
    assert "quant" not in render([BASE])


def dynamic_and_twin(scheme="tensor-w-tensor-a", *, comparison=0, extra=1.5e-6, kernel=INT8):
    """A kernel quantizing inside the timed region, and on activations quantized beforehand."""
    twin = made(kernel, *[2e-6] * 6, comparison=comparison)
    scaling = Scaling.parse(scheme)
    twin = replace(twin, problem=replace(twin.problem, scheme=scaling.name))
    inside = replace(twin, problem=replace(twin.problem, activations=Activations.DYNAMIC))
    return twin, replace(inside, samples={"time_host": (2e-6 + extra,) * 6})


def test_what_quantizing_costs_is_over_the_twin_of_the_same_scheme_and_shape() -> None:
    twin, dynamic = dynamic_and_twin()
    decoy, _ = dynamic_and_twin("tensor-w-token-a")
    decoy = replace(decoy, samples={"time_host": (1e-6,) * 6})
    other = replace(decoy, problem=twin.problem, comparison=1, labels={"note": "x"})
    text = render([BASE, decoy, twin, dynamic, other])
    assert header(text)[:4] == ["kernel", "median", "±95%", "quantizing"]
    assert row(text, f"{INT8}[dynamic]")[:6] == ["3.500", "us", "±0.00%", "+1.500", "us", "±0.000"]
    assert row(text, BASELINE)[3] == "-"
    assert "quantizing" not in render([BASE, dynamic]), "without its twin the cost is not known"


def test_accuracy_of_schemes_is_shown_where_schemes_or_formats_are_compared() -> None:
    exact, coarse = {"normal": 39.25, "outliers": 17.0}, {"normal": 28.5}
    int8, fp8 = replace(FAST, scheme_sqnr_db=exact), made(FP8, 2e-6, scheme_sqnr_db=coarse)
    text = render([BASE, int8, fp8])
    assert " ".join(header(text)[4:]) == "vs bf16 error SQNR", "outliers are known of one scheme only"
    assert row(text, INT8)[-2:] == ["39.2", "dB"]
    assert row(text, BASELINE)[-1] == "-"
    both = render([BASE, int8, replace(fp8, scheme_sqnr_db={"normal": 28.5, "outliers": 28.0})])
    assert " ".join(header(both)[6:9]) == "error SQNR outliers"
    assert row(both, INT8)[-4:] == ["39.2", "dB", "17.0", "dB"]
    assert "SQNR" not in render([BASE, int8, replace(int8, kernel=INT8 + "_bias")]), "one scheme: nothing to compare"
    assert "SQNR" not in render([BASE, int8, replace(fp8, status=Status.UNSUPPORTED, samples={})])


def grid() -> list:
    """Two kernels of either format under two schemes, sorted by kernel as a plan is, and a kernel that refuses both."""
    records = [BASE]
    for kernel in (INT8, FP8):
        for scheme in ("tensor-w-tensor-a", "channel-w-token-a"):
            records += dynamic_and_twin(scheme, kernel=kernel, extra=1e-6 if kernel == INT8 else 3e-6)
    refused = [replace(r, kernel=CUTLASS, status=Status.UNSUPPORTED, reason="no sm_90") for r in records[1:5]]
    return [*records, *refused]


CUTLASS = "cutlass_i8_i8_bf16_scaled_mm"


def test_a_grid_is_sorted_by_scheme_then_format_and_its_refusals_stand_together_at_the_end() -> None:
    lines = render(grid(), view=ALL_ROWS).splitlines()
    assert lines.pop() == "    no sm_90"
    assert [line.split()[0] if not line.startswith("--") else line for line in lines[2:]] == [
        BASELINE,
        "-- tensor-w-tensor-a",
        INT8,
        f"{INT8}[dynamic]",
        FP8,
        f"{FP8}[dynamic]",
        "-- channel-w-token-a",
        f"{INT8}[channel-w-token-a]",
        f"{INT8}[channel-w-token-a,dynamic]",
        f"{FP8}[channel-w-token-a]",
        f"{FP8}[channel-w-token-a,dynamic]",
        "-- unsupported",
        f"{CUTLASS}[4",
    ]
    assert lines[-1].split()[1] == "cells]"
    assert lines[-1].endswith("unsupported")


def test_refusals_for_different_reasons_are_rows_of_their_own() -> None:
    *records, one, two, three, four = grid()
    text = render([*records, one, two, three, replace(four, reason="k=3")], view=ALL_ROWS)
    assert [line.split("  ")[0] or line for line in text.splitlines()[-4:]] == [
        f"{CUTLASS}[3 cells]",
        "    no sm_90",
        f"{CUTLASS}[channel-w-token-a,dynamic]",
        "    k=3",
    ]


def test_a_run_of_the_default_schemes_keeps_its_order_and_a_row_a_cell() -> None:
    refused = [replace(REFUSED, problem=replace(REFUSED.problem, activations=kind)) for kind in Activations]
    lines = render([BASE, *refused, FAST], view=ALL_ROWS).splitlines()
    assert [line.split()[0] for line in lines[2:] if not line.startswith(" ")] == [
        BASELINE,
        FP8,
        f"{FP8}[dynamic]",
        f"{FP8}[static]",
        INT8,
    ]


def schemes_of(records) -> list[list[str]]:
    return [line.split() for line in render_schemes(records).splitlines()[2:]]


def test_the_fastest_kernel_of_each_combination_is_a_line_by_where_activations_are_quantized() -> None:
    ratios = {"normal": 39.0, "outliers": 20.0}
    records = [replace(record, scheme_sqnr_db=ratios if record.kernel == INT8 else {}) for record in grid()]
    slow = [replace(r, kernel=INT8.replace("pytorch", "vllm"), samples={"time_host": (9e-6,) * 6}) for r in records]
    text = render_schemes([*slow[1:3], *records])
    assert text.splitlines()[0] == "fastest by scheme  m=16 n=64 k=32  time_host"
    assert " ".join(text.splitlines()[1].split()) == (
        "activations scheme format median ±95% vs bf16 quantizing SQNR outliers kernel"
    )
    first, *others = [line.split() for line in text.splitlines()[2:]]
    assert first == ["-", "-", "bf16", "4.000", "us", "±0.00%", "1.00x", "-", "-", "-", BASELINE]
    assert [(line[0], line[1], line[2]) for line in others] == [
        (kind, scheme, fmt)
        for kind in ("prequantized", "dynamic")
        for scheme in ("tensor-w-tensor-a", "channel-w-token-a")
        for fmt in ("int8", "fp8")
    ]
    assert others[4] == [
        *("dynamic", "tensor-w-tensor-a", "int8", "3.000", "us", "±0.00%", "1.33x"),
        *("+1.000", "us", "±0.000", "39.0", "dB", "20.0", "dB", INT8),
    ]
    assert [line[-1] for line in others] == [INT8, FP8] * 4, "the slower one, the refused and other data are not shown"


def test_a_bias_competes_only_where_every_kernel_has_one() -> None:
    plain, _ = dynamic_and_twin()
    biased = replace(plain, kernel=INT8 + "_bias", problem=replace(plain.problem, bias=True))
    biased = replace(biased, samples={"time_host": (1e-6,) * 6})
    assert [line[-1] for line in schemes_of([plain, biased])] == [INT8]
    assert [line[-1] for line in schemes_of([biased, replace(plain, status=Status.SKIPPED)])] == [INT8 + "_bias"]


def test_a_combination_that_no_kernel_computed_says_why_and_one_without_meaning_is_no_line() -> None:
    plain, _ = dynamic_and_twin()
    refused = replace(plain, status=Status.UNSUPPORTED, samples={}, scheme_sqnr_db={"normal": 30.0})
    illegal = replace(refused, problem=replace(refused.problem, scheme=BLOCKWISE.name))
    assert schemes_of([refused, illegal]) == [
        ["tensor-w-tensor-a", "int8", "-", "-", "-", "30.0", "dB", "none:", "unsupported"]
    ]
    assert render_schemes([]) == ""


def test_emulated_fp8_is_called_so_where_it_is_the_fastest() -> None:
    ((*_, kernel, note),) = schemes_of([made(FP8, 1e-6, flags=("emulated",))])
    assert (kernel, note) == (FP8, "(emulated)")


def test_emulated_fp8_is_never_shown_without_saying_so() -> None:
    text = render([BASE, made(FP8, 1e-6, flags=("emulated", "power_capped"))])
    assert row(text, FP8)[-3:] == ["ok,", "emulated,", "power_capped"]
    assert text.splitlines()[-1] == EMULATED_NOTE
    refused = render([replace(REFUSED, flags=("emulated",))])
    assert "emulat" not in refused


def test_an_unsettled_cell_says_so() -> None:
    assert row(render([replace(FAST, flags=("unsettled",))]), INT8)[-2:] == ["ok,", "unsettled"]


COLD = made(
    INT8,
    samples={
        "time_cold_l2": (7e-6,) * 6,
        "time_hot_l2": (5e-6,) * 6,
        "time_kernel": (6e-6,) * 6,
        "host_launch": (3e-6,) * 6,
    },
    clock_mhz={"time_cold_l2": (1980.0, 1965.0, 1950.0, 1935.0, 1935.0, 1935.0)},
)


def header(text: str) -> list[str]:
    return next(line for line in text.splitlines() if line.startswith("kernel")).split()


def test_the_headline_is_the_first_measure_that_any_record_has() -> None:
    text = render([FAST, COLD])
    assert text.splitlines()[0] == "m=16 n=64 k=32  time_cold_l2"
    assert "-" in text.splitlines()[2].split()[1], "FAST was not measured cold"
    host = render([made(INT8, samples={**FAST.samples, "host_launch": (3e-6,) * 6})])
    assert host.splitlines()[0] == "m=16 n=64 k=32  time_host"


def test_further_measures_and_the_clock_have_columns_of_their_own() -> None:
    text = render([COLD, REFUSED], view=ALL_ROWS)
    assert " ".join(header(text)) == "kernel median ±95% hot kernel enqueue MHz TFLOP/s vs bf16 error status"
    assert row(text, INT8)[:10] == ["7.000", "us", "±0.00%", "5.000", "us", "6.000", "us", "3.000", "us", "1942"]
    assert row(text, FP8)[:7] == ["-"] * 7
    assert "MHz" not in header(render([replace(COLD, clock_mhz={})]))
    assert "hot" not in header(render([FAST]))


def test_a_cell_that_is_not_ok_shows_no_time_in_any_column() -> None:
    text = render([COLD, replace(COLD, kernel=FP8, status=Status.IMPLAUSIBLE, reason="too fast")])
    assert row(text, FP8)[:7] == ["-"] * 7


def test_speedups_are_of_the_headline() -> None:
    base = made(BASELINE, samples={"time_cold_l2": (14e-6,) * 6, "time_hot_l2": (5e-6,) * 6})
    assert "2.00x" in row(render([base, COLD]), INT8)


def test_several_processes_show_the_mean_of_their_medians() -> None:
    two = made(INT8, 1e-6, 1e-6, 3e-6, 3e-6, processes=(0, 0, 1, 1))
    assert row(render([two]), INT8)[:3] == ["2.000", "us", "±635.31%"]  # Student: 12.706 * sqrt(2) / sqrt(2) / 2


def ended(**changes):
    return replace(end([BASE, FAST]), duplicate={}, machine={}, **changes)


def duplicated(*seconds: float, kernel: str = BASELINE):
    blocks = tuple(range(len(seconds)))
    return {"kernel": kernel, "cell": kernel, "samples": {"time_host": seconds}, "blocks": {"time_host": blocks}}


def test_the_noise_floor_stands_below_its_own_comparison() -> None:
    close = ended(blocks=6)
    close = replace(close, duplicate=duplicated(*[4.04e-6] * 6))
    other = replace(BASE, comparison=1, labels={"note": "second"})
    lines = render([BASE, FAST, other], [close, replace(close, index=1, duplicate={})]).splitlines()
    said = [number for number, line in enumerate(lines) if "noise floor" in line]
    assert said == [4]
    assert lines[4] == f"noise floor: {BASELINE} against itself 1.0100x (1.0100 to 1.0100), 6 blocks"


def test_a_machine_that_is_too_busy_is_named_above_the_table() -> None:
    busy = replace(ended(blocks=6), duplicate=duplicated(*[4.6e-6] * 6))
    said = "this machine is too busy for these numbers: the same kernel timed twice differs by 15%"
    assert render([BASE, FAST], [busy]).splitlines()[1] == said
    assert render_schemes([BASE, FAST], ends=[busy]).splitlines()[1] == said
    unsure = replace(busy, duplicate=duplicated(*[3e-6] * 3, *[5e-6] * 3))
    assert re.fullmatch(
        said.replace("differs by 15%", r"may differ by \d+%"), render([BASE, FAST], [unsure]).splitlines()[1]
    )
    quiet = replace(busy, duplicate=duplicated(*[4.3e-6] * 6))
    assert "too busy" not in render([BASE, FAST], [quiet])


def test_too_few_blocks_leave_a_noise_floor_without_an_interval() -> None:
    text = render([BASE], [replace(ended(blocks=2), duplicate=duplicated(4e-6, 4e-6))])
    assert f"noise floor: {BASELINE} against itself 1.0000x, 2 blocks" in text.splitlines()


def test_void_blocks_and_other_processes_are_warned_of() -> None:
    quiet = render([BASE], [replace(ended(), machine={"voided_blocks": 0, "other_processes": 0})])
    assert quiet == render([BASE])
    unknown = render([BASE], [replace(ended(), machine={"voided_blocks": 0, "other_processes": None})])
    assert unknown == render([BASE])
    lines = render([BASE], [replace(ended(), machine={"voided_blocks": 3, "other_processes": 2})]).splitlines()
    assert lines[-2] == "3 blocks were void (thermal or hardware slowdown) and taken again"
    assert lines[-1] == "warning: 2 other processes were on this GPU; their work is in the times"


def test_what_stands_in_a_foreign_file_can_not_break_a_note() -> None:
    kernel = f"{BASELINE}\x1b[31m\nspoof"
    original = replace(BASE, kernel=BASELINE)
    text = render([original], [replace(ended(), duplicate=duplicated(4e-6, kernel=kernel), machine={})])
    assert "\x1b" not in text
    assert "\nspoof" not in text


def test_ends_of_schema_1_add_nothing() -> None:
    assert render([BASE, FAST], [ended()]) == render([BASE, FAST])


def test_a_long_reason_is_kept_whole_and_can_not_break_the_line() -> None:
    reason = "first\nsecond\x1b[31m " + "x" * 400
    refused = replace(REFUSED, reason=reason)
    assert render([refused], view=ALL_ROWS).splitlines()[-1] == "    first second [31m " + "x" * 400
    lines = render([refused], view=View(width=100, show_unsupported=True)).splitlines()
    below = lines[lines.index(next(line for line in lines if line.startswith(FP8))) + 1 :]
    assert "".join(below).replace(" ", "") == "firstsecond[31m" + "x" * 400


def test_no_records_are_no_table_and_no_crash() -> None:
    assert render([]) == ""
