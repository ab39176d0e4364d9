"""Recommendations: sums that can be checked on paper, ties, limits, and everything that is not summed said."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import pytest
from copies import replace
from made_model import ANY, FP8, ONE, PAPER, ROW_WISE, TWO, advise, cell, refusal, source
from made_results import HEADER, record

from w8a8_bench.kernel import Status
from w8a8_bench.problem import BLOCKWISE, PER_TENSOR, SCHEMES, Activations, Azp, GemmShape
from w8a8_bench.problem.kernel_name import BASELINE
from w8a8_bench.report.recommend.choices import ModelLayer, Requirements
from w8a8_bench.report.recommend.recommend import recommend
from w8a8_bench.report.recommend.render import markdown, plain_text, to_json
from w8a8_bench.report.scheme import Scheme
from w8a8_bench.results import json_lines
from w8a8_bench.results.record import Record
from w8a8_bench.shapes.models import MODELS
from w8a8_bench.stats import median

ROOT = Path(__file__).resolve().parents[4]
FAST = "pytorch_fp8_fp8_bf16_scaled_mm_fast_accum"
INT8, INT8_AZP = "pytorch_i8_i8_bf16_scaled_mm", "pytorch_i8_i8_bf16_scaled_mm_azp_pt"
BLOCKED = "pytorch_fp8_fp8_bf16_scaled_mm_blockwise"


def test_sums_are_those_worked_out_on_paper() -> None:
    advice = advise(*PAPER)
    sums = {
        time.m: [round(1e6 * total.time.median, 6) for total in (time.baseline, time.mix, time.single)]
        for time in advice.times
    }
    # The best of each layer: row-wise 2 x 4 + per tensor 3 x 16; then per tensor 2 x 6, which ties, + row-wise 3 x 12.
    assert sums == {16: [80, 56, 58], 32: [96, 48, 47.94]}
    assert [time.mix.speedup.median for time in advice.times] == [pytest.approx(80 / 56), pytest.approx(2.0)]
    assert [time.scheme.text for time in advice.times] == ["fp8 tensor-w-tensor-a", "fp8 channel-w-token-a"]
    assert [time.single.speedup.median for time in advice.times] == [pytest.approx(80 / 58), pytest.approx(96 / 47.94)]
    overall = {row.scheme.text: row.overall.median for row in advice.schemes}
    assert overall == {
        "bf16": 1.0,
        "fp8 tensor-w-tensor-a": pytest.approx(math.sqrt(80 / 58 * 96 / 84)),
        "fp8 channel-w-token-a": pytest.approx(math.sqrt(80 / 62 * 96 / 47.94)),
    }
    assert advice.deploy.scheme.text == "fp8 channel-w-token-a"
    assert advice.notes == ()


def test_the_best_of_a_layer_is_named_with_its_kernel_and_the_time_beside_it() -> None:
    best = {(one.layer.name, one.m): one for one in advise(*PAPER).layers}
    assert {where: one.best.scheme.text for where, one in best.items()} == {
        ("one", 16): "fp8 channel-w-token-a",
        ("one", 32): "fp8 tensor-w-tensor-a",
        ("two", 16): "fp8 tensor-w-tensor-a",
        ("two", 32): "fp8 channel-w-token-a",
    }
    two = best["two", 16]
    assert (two.best.record.kernel, two.best.time.median) == (FP8, 16e-6)
    assert two.best.speedup.median == pytest.approx(1.25)
    assert two.baseline.time.median == pytest.approx(20e-6)


def one_layer(*records: Record, **changes):
    """The best of the one layer at m = 16, of `records` beside a baseline of 10 us."""
    (best,) = advise(cell(ONE, 16, BASELINE, 10), *records, layers=[ONE], **changes).layers
    return best.best


def test_a_tie_goes_to_the_simpler_scheme_and_a_clear_win_does_not() -> None:
    plain = cell(ONE, 16, FP8, 5)
    assert one_layer(cell(ONE, 16, FP8, 4.96, ROW_WISE), plain).scheme.text == "fp8 tensor-w-tensor-a"
    assert one_layer(cell(ONE, 16, FP8, 4.9, ROW_WISE), plain).scheme.text == "fp8 channel-w-token-a"
    # 4% faster, but not known well enough.
    noisy = cell(ONE, 16, FP8, 4.8, ROW_WISE, spread=0.1)
    assert one_layer(noisy, plain).scheme.text == "fp8 tensor-w-tensor-a"
    assert one_layer(cell(ONE, 16, FP8, 4.8, ROW_WISE, spread=0.01), plain).scheme.text == "fp8 channel-w-token-a"


def test_sixteen_bits_stay_where_nothing_beats_them() -> None:
    advice = advise(cell(ONE, 16, BASELINE, 10), cell(ONE, 16, FP8, 9.95), layers=[ONE])
    assert advice.layers[0].best.record.kernel == BASELINE
    assert (advice.deploy.scheme.text, advice.times[0].scheme.text) == ("bf16", "bf16")
    assert "**No scheme beats bf16 over all m by more than 1%: keep it.**" in markdown(advice)


def test_a_tie_of_one_scheme_goes_to_precise_accumulation_and_else_to_the_faster_kernel() -> None:
    assert one_layer(cell(ONE, 16, FP8, 5), cell(ONE, 16, FAST, 4.97)).record.kernel == FP8
    assert one_layer(cell(ONE, 16, FP8, 5), cell(ONE, 16, FAST, 4.5)).record.kernel == FAST
    assert one_layer(cell(ONE, 16, FP8, 5), cell(ONE, 16, INT8, 4.99)).record.kernel == INT8


def test_the_order_of_simplicity_is_as_documented() -> None:
    fp8 = cell(ONE, 16, FP8, 1).problem
    by_scaling = [
        Scheme.of(replace(fp8, scheme=scheme)).complexity for scheme in (None, *(one.name for one in SCHEMES))
    ]
    assert by_scaling == [0, 1, 2, 2, 3, 5]
    int8 = cell(ONE, 16, INT8, 1).problem
    assert [Scheme.of(replace(int8, azp=azp)).complexity for azp in Azp] == [1, 2, 3]
    assert Scheme.of(replace(int8, azp=Azp.TOKEN, scheme=ROW_WISE.name)).text == "int8 channel-w-token-a azp token"


def test_one_scheme_that_lacks_a_layer_at_an_m_is_not_recommended_for_all() -> None:
    fast = [cell(ONE, 16, INT8, 1), cell(TWO, 16, INT8, 1), cell(ONE, 32, INT8, 1)]
    advice = advise(*PAPER, *fast, cell(TWO, 32, INT8, 1, status=Status.UNSUPPORTED, samples={}))
    assert [time.scheme.text for time in advice.times] == ["int8 tensor-w-tensor-a", "fp8 channel-w-token-a"]
    assert advice.deploy.scheme.text == "fp8 channel-w-token-a"
    assert advice.notes == (
        "no time of the whole model with int8 tensor-w-tensor-a at m=32, which lacks two",
        "left out, unsupported: pytorch_i8_i8_bf16_scaled_mm tensor-w-tensor-a (1 of 4)",
    )


def test_a_scheme_that_would_win_but_lacks_a_time_leaves_it_undecided() -> None:
    """bf16 is not called the best where what beats it elsewhere has no time at one m."""
    without = [
        one for one in PAPER if not (one.problem.shape.m == 32 and one.problem.shape.k == ONE.k and one.kernel == FP8)
    ]
    advice = advise(*without)
    assert advice.deploy.scheme.text == "bf16"
    assert (advice.partial.scheme.text, tuple(advice.partial.by_m)) == ("fp8 tensor-w-tensor-a", (16,))
    assert advice.partial.overall.median == pytest.approx(80 / 58)
    text = markdown(advice)
    assert "**Undecided: no scheme beats bf16 and has a time at every m.**" in text
    assert "at m=16. It lacks m=32; the notes say what." in text
    assert to_json(advice)["incomplete_but_faster"]["m"] == [16]
    assert advise(*PAPER).partial is None


def test_gpus_of_one_name_are_told_apart_in_the_notes() -> None:
    first, second = ([one for one in PAPER if one.problem.shape.m == m] for m in (16, 32))
    cards = [{"kind": "cuda", "name": "H200", "uuid": uuid} for uuid in ("GPU-1", "GPU-2")]
    files = [
        source(*records, name=f"{i}.jsonl", device=card, devices=(card,))
        for i, (records, card) in enumerate(zip((first, second), cards, strict=True))
    ]
    assert "the records are of 2 GPUs of one name, which may differ: GPU-1, GPU-2" in advise(sources=files).notes
    assert not advise(sources=files[:1]).notes


def test_what_can_not_stand_in_the_baselines_place_is_left_out_with_the_reason() -> None:
    others = [
        cell(ONE, 16, "pytorch_fp16_fp16_fp16_matmul-no-scales", 1),
        cell(ONE, 16, "pytorch_fp8_fp8_fp16_scaled_mm", 1),
        cell(ONE, 16, "pytorch_i8_i8_bf16_scaled_mm_bias", 1),
        cell(ONE, 16, FP8, 1, activations=Activations.DYNAMIC),
        cell(ONE, 16, FAST, 1, flags=("emulated",)),
        cell(ONE, 16, BLOCKED, 1, status=Status.INCORRECT),
        record(INT8, 1e-6, 1e-6, comparison=1664, shape=GemmShape(m=16, n=128, k=64)),
        cell(ONE, 16, INT8_AZP, 1, samples={"time_hot_l2": (1e-6,) * 12}),
    ]
    advice = advise(cell(ONE, 16, BASELINE, 10), cell(ONE, 16, FP8, 5), *others, layers=[ONE])
    assert advice.layers[0].best.time.median == 5e-6
    assert advice.notes == (
        "left out, not W8A8: pytorch_fp16_fp16_fp16_matmul-no-scales",
        "left out, output fp16: pytorch_fp8_fp8_fp16_scaled_mm tensor-w-tensor-a",
        "left out, with a bias: pytorch_i8_i8_bf16_scaled_mm_bias tensor-w-tensor-a",
        "left out, activations dynamic: pytorch_fp8_fp8_bf16_scaled_mm tensor-w-tensor-a (1 of 2)",
        "left out, emulated: pytorch_fp8_fp8_bf16_scaled_mm_fast_accum tensor-w-tensor-a",
        "left out, incorrect: pytorch_fp8_fp8_bf16_scaled_mm_blockwise block-w-group-a",
        "left out, too few samples for an interval: pytorch_i8_i8_bf16_scaled_mm tensor-w-tensor-a",
        "left out, no time_host: pytorch_i8_i8_bf16_scaled_mm_azp_pt tensor-w-tensor-a",
    )


def test_activations_of_one_kind_are_compared() -> None:
    dynamic = cell(ONE, 16, FP8, 6, activations=Activations.DYNAMIC)
    both = cell(ONE, 16, FP8, 5), dynamic
    assert one_layer(*both).time.median == 5e-6
    assert one_layer(*both, required=Requirements(Activations.DYNAMIC)).time.median == 6e-6
    assert refusal(*PAPER, required=Requirements(Activations.STATIC)) == (
        "no kernel with static activations in the records of mine: they have prequantized"
    )


def test_a_least_sqnr_leaves_out_what_is_below_or_unknown_and_says_so() -> None:
    records = [
        cell(ONE, 16, FP8, 4, scheme_sqnr_db={"normal": 31.5, "outliers": 12.0}),
        cell(ONE, 16, FP8, 5, ROW_WISE, scheme_sqnr_db={"normal": 31.6, "outliers": 30.5}),
        cell(ONE, 16, INT8, 3),
    ]
    assert one_layer(*records, required=Requirements(any_accuracy=True)).time.median == 3e-6
    assert one_layer(*records, required=Requirements(min_sqnr_db=30)).scheme.text == "fp8 channel-w-token-a"
    of_normal = Requirements(min_sqnr_db=30, sqnr_data="normal")
    assert one_layer(*records, required=of_normal).scheme.text == "fp8 tensor-w-tensor-a"
    advice = advise(cell(ONE, 16, BASELINE, 10), *records, layers=[ONE], required=Requirements(min_sqnr_db=30))
    assert {row.scheme.text: row.too_low for row in advice.schemes} == {
        "bf16": None,
        "fp8 tensor-w-tensor-a": "12.0 dB",
        "fp8 channel-w-token-a": None,
        "int8 tensor-w-tensor-a": "unknown",
    }
    said = "A scheme needs an SQNR of 30 dB on all data (--min-sqnr). Not recommended for that: "
    assert f"{said}fp8 tensor-w-tensor-a (12.0 dB), int8 tensor-w-tensor-a (unknown)." in markdown(advice)
    nothing = advise(cell(ONE, 16, BASELINE, 10), *records, layers=[ONE], required=Requirements(min_sqnr_db=99))
    assert nothing.deploy.scheme.text == "bf16"
    assert "**No scheme that is accurate enough beats bf16 over all m by more than 1%: keep it.**" in markdown(nothing)
    assert nothing.unlimited.scheme.text == "int8 tensor-w-tensor-a"
    assert "Without the limit it would be int8 tensor-w-tensor-a, 3.33x" in markdown(nothing)
    assert refusal(
        cell(ONE, 16, BASELINE, 10), *records, layers=[ONE], required=Requirements(min_sqnr_db=1, sqnr_data="x")
    ) == ("data 'x' has no SQNR in the records of mine: expected one of normal, outliers")


def test_the_sqnr_of_a_scheme_is_its_smallest_over_layers_and_sizes() -> None:
    values = iter((31.0, 29.5, 30.0, 33.0))
    records = [
        replace(one, scheme_sqnr_db={"normal": next(values)}) if one.problem.scaling == PER_TENSOR else one
        for one in PAPER
    ]
    assert {row.scheme.text: dict(row.sqnr_db) for row in advise(*records).schemes} == {
        "bf16": {},
        "fp8 tensor-w-tensor-a": {"normal": 29.5},
        "fp8 channel-w-token-a": {},
    }


def test_an_m_without_all_layers_is_not_summed_and_said() -> None:
    without = [one for one in PAPER if one.problem.shape != GemmShape(m=32, n=64, k=128)]
    advice = advise(*without)
    assert [time.m for time in advice.times] == [16]
    assert [(one.layer.name, one.m) for one in advice.layers] == [("one", 16), ("one", 32), ("two", 16)]
    assert advice.notes == (
        "no time of the whole model at m=32, for want of records or of the baseline's time: two (k=128 n=64)",
    )
    skipped = [
        replace(one, status=Status.SKIPPED) if one.kernel == BASELINE and one.problem.shape.m == 32 else one
        for one in PAPER
    ]
    assert advise(*skipped).notes[0] == (
        "no time of the whole model at m=32, for want of records or of the baseline's time: "
        "one (k=64 n=128), two (k=128 n=64)"
    )


def test_a_layer_or_a_baseline_that_is_nowhere_ends_it_with_what_to_measure() -> None:
    assert refusal(*PAPER[:3]) == (
        "no records of two (k=128 n=64) of mine at TP 1: measure them with model_bench --models mine --tp-sizes 1"
    )
    assert refusal(*(one for one in PAPER if one.kernel != BASELINE)) == (
        f"no time of {BASELINE} in the records of mine: what is chosen is compared with it"
    )
    assert refusal(*PAPER[:3], *PAPER[9:]).startswith(
        f"no m at which every layer of mine has a time of {BASELINE}: no time of the whole model at m=16, "
    )
    assert refusal(*(one for one in PAPER if one.kernel == BASELINE)) == (
        "no kernel with prequantized activations in the records of mine: they have none that is W8A8"
    )
    broken = [replace(one, status=Status.FAILED) if one.kernel != BASELINE else one for one in PAPER]
    assert refusal(*broken).startswith("no W8A8 kernel in the records of mine to choose: left out, failed: pytorch_fp8")


def test_layers_are_found_by_shape_in_several_files_and_the_models_own_sweep_counts_first() -> None:
    own = [replace(one, labels={"model": "mine"}) for one in PAPER]
    slower = [cell(ONE, 16, BASELINE, 20), cell(ONE, 16, FP8, 7), cell(ONE, 16, INT8, 2)]
    advice = advise(sources=[source(*slower, name="other.jsonl"), source(*own, name="own.jsonl")])
    one = advice.layers[0]
    # INT8 took a tenth of the baseline beside it, FP8 per tensor a half and row-wise 0.4.
    assert (one.best.record.kernel, one.best.speedup.median) == (INT8, pytest.approx(10.0))
    assert one.baseline.time.median == pytest.approx(10e-6)
    assert advice.files == ("other.jsonl", "own.jsonl")
    # FP8 per tensor: 5 us beside a baseline of 10, and 7 beside one of 20; the mean of the ratios, beside the first.
    per_tensor = {row.scheme.text: row for row in advice.schemes}["fp8 tensor-w-tensor-a"].by_m[16].choices[ONE]
    assert per_tensor.speedup.median == pytest.approx(math.sqrt(2 * 20 / 7))
    assert per_tensor.time.median == pytest.approx(10e-6 / math.sqrt(2 * 20 / 7))
    assert any(note.startswith("measured more than once: 1 cell; ") for note in advice.notes)


def test_times_that_do_not_compare_are_refused_with_both_files() -> None:
    first = source(*PAPER, device={"name": "NVIDIA H200"})
    assert refusal(sources=[first, source(*PAPER, name="b.jsonl", device={"name": "NVIDIA A100"})]) == (
        "a.jsonl has device NVIDIA H200 and b.jsonl has device NVIDIA A100: "
        "records that are compared must be of one device and one setting"
    )
    for settings, said in (
        ({"data": "zeros", "duty": 0.5}, "a.jsonl has data normal and b.jsonl has data zeros"),
        ({"data": "normal", "duty": 1.0}, "a.jsonl has duty 0.5 and b.jsonl has duty 1.0"),
        ({"data": "normal"}, "a.jsonl has duty 0.5 and b.jsonl has no duty"),
    ):
        other = source(*PAPER, name="b.jsonl", device={"name": "NVIDIA H200"}, settings=settings)
        assert refusal(sources=[first, other]).startswith(f"{said}: ")
    cold = [replace(one, samples={"time_cold_l2": one.samples["time_host"]}) for one in PAPER]
    cold = [replace(one, blocks={"time_cold_l2": tuple(range(12))}) for one in cold]
    assert refusal(sources=[source(*PAPER), source(*cold, name="b.jsonl")]) == (
        "a.jsonl has time_host and b.jsonl time_cold_l2: times that are compared must be of one measure"
    )


def test_other_libraries_behind_a_file_are_noted() -> None:
    other = source(name="b.jsonl", environment={**HEADER.environment, "torch": "2.11.0"})
    assert advise(sources=[source(*PAPER), other]).notes == ("the files differ in torch: 2.13.0, 2.11.0",)


def test_routed_experts_are_in_no_sum_and_said_to_be() -> None:
    expert = ModelLayer("experts.down_proj", k=256, n=64, count=None)
    records = [cell(expert, 16, BASELINE, 100), cell(expert, 16, FP8, 50)]
    advice = advise(*PAPER, *records, layers=(ONE, TWO, expert))
    assert [round(1e6 * time.baseline.time.median) for time in advice.times] == [80, 96]
    assert advice.layers[-1].best.time.median == 50e-6
    assert advice.notes == (
        "not in any sum, since an expert sees the tokens that were routed to it and not all m: experts.down_proj",
    )
    row = next(line for line in markdown(advice).splitlines() if line.startswith("| experts.down_proj"))
    assert [text.strip() for text in row.split("|")][2] == "-"


def test_intervals_of_sums_add_as_variances() -> None:
    """Layers of 20 and 60 us, each ±h: the sum is ±sqrt(20^2 + 60^2) h, and its ratio to the baseline too."""
    records = [
        cell(ONE, 16, BASELINE, 20),
        cell(ONE, 16, FP8, 10, spread=0.05),
        cell(TWO, 16, BASELINE, 40),
        cell(TWO, 16, FP8, 20, spread=0.05),
    ]
    advice = advise(*records)
    low, high = advice.layers[0].best.time.interval
    h = (high - low) / 2 / 10e-6
    total = advice.times[0].single
    low, high = total.time.interval
    assert (high - low) / 2 == pytest.approx(math.hypot(20e-6, 60e-6) * h)
    low, high = total.speedup.interval
    assert (high - low) / 2 / 2 == pytest.approx(math.hypot(0.25, 0.75) * h, rel=0.02)


def test_json_and_markdown_say_the_same() -> None:
    advice = advise(*PAPER)
    data = json.loads(json.dumps(to_json(advice), allow_nan=False))
    assert data["deploy"]["scheme"] == advice.deploy.scheme.text
    assert [one["one_scheme"]["time_s"] for one in data["whole_model"]] == [
        pytest.approx(58e-6),
        pytest.approx(47.94e-6),
    ]
    assert data["whole_model"][0]["best_of_each_layer"]["kernels"]["one"] == {
        "kernel": FP8,
        "scheme": "fp8 channel-w-token-a",
    }
    assert data["layers"][0]["best"]["speedup"] == pytest.approx(2.5)
    text = markdown(advice)
    for time in data["whole_model"]:
        assert f"| {1e6 * time['one_scheme']['time_s']:.2f} us | {time['one_scheme']['speedup']:.2f}x ±0.00% |" in text
    assert "| one   |     2 |  64 | 128 | 16 | pytorch_fp8_fp8_bf16_scaled_mm | fp8 channel-w-token-a |" in text


def test_text_of_records_can_not_break_a_table() -> None:
    odd = replace(ONE, name="a|b\nc")
    advice = advise(cell(ONE, 16, BASELINE, 10), cell(ONE, 16, FP8, 5), layers=[odd])
    (row,) = [line for line in markdown(advice).splitlines() if line.startswith("| a\\|b c")]
    assert row.count("|") - row.count("\\|") == 14


def committed(run: int):
    results = json_lines.read(ROOT / f"results/h200/llama2_7b_28_shapes_run{run}.jsonl.gz")
    model = "meta-llama/Llama-2-7b-hf"
    layers = [ModelLayer(layer.name, layer.k, layer.n, layer.count) for layer in MODELS[model]]
    return results, recommend(model, 1, layers, [results], ANY)


def test_committed_records_of_an_h200_make_a_total_that_adds_up() -> None:
    results, advice = committed(1)
    times = {
        (r.labels["layer"], r.problem.shape.m): median(r.samples["time_cold_l2"])
        for r in results.records
        if r.kernel == BASELINE
    }
    for time in advice.times:
        total = 32 * sum(times[layer, time.m] for layer in ("qkv_proj", "o_proj", "gate_up_proj", "down_proj"))
        assert time.baseline.time.median == pytest.approx(total)
        assert time.mix.time.median == pytest.approx(
            32 * sum(o.best.time.median for o in advice.layers if o.m == time.m)
        )
    assert advice.deploy.scheme.scaling == PER_TENSOR
    assert 1.79 < advice.deploy.overall.median < 1.81


def test_two_committed_sweeps_lead_to_the_same_recommendation() -> None:
    advices = [committed(run)[1] for run in (1, 2)]
    chosen = [
        [(one.layer, one.m, one.best.scheme) for one in advice.layers] + [time.scheme for time in advice.times]
        for advice in advices
    ]
    assert chosen[0] == chosen[1]
    for one, other in zip(*(advice.times for advice in advices), strict=True):
        assert one.single.time.median == pytest.approx(other.single.time.median, rel=0.005)


def test_blockwise_is_the_least_simple_of_equals() -> None:
    blocked = cell(ONE, 16, BLOCKED, 4.97)
    assert blocked.problem.scaling == BLOCKWISE
    assert one_layer(blocked, cell(ONE, 16, FP8, 5, ROW_WISE)).scheme.text == "fp8 channel-w-token-a"


def test_cells_of_one_comparison_are_compared_with_each_other_and_not_over_a_noisy_baseline() -> None:
    records = cell(ONE, 16, BASELINE, 10, spread=0.2), cell(ONE, 16, FP8, 5), cell(ONE, 16, FP8, 4.85, ROW_WISE)
    assert advise(*records, layers=[ONE]).layers[0].best.scheme.text == "fp8 channel-w-token-a"
    # In another file it is over the baseline there, and 3% are within the noise.
    apart = [source(*records[:2]), source(records[0], records[2], name="b.jsonl")]
    assert advise(sources=apart, layers=[ONE]).layers[0].best.scheme.text == "fp8 tensor-w-tensor-a"


def test_the_mean_over_m_is_known_better_than_each_of_them() -> None:
    records = [cell(ONE, m, BASELINE, 10) for m in (16, 32, 64, 128)]
    records += [cell(ONE, m, FP8, 5, spread=0.05) for m in (16, 32, 64, 128)]
    advice = advise(*records, layers=[ONE])
    low, high = advice.times[0].single.speedup.interval
    of_one = math.log(high / low)
    low, high = advice.deploy.overall.interval
    assert math.log(high / low) == pytest.approx(of_one / 2, rel=0.02)


def test_a_layer_has_its_own_times_where_another_has_its_shape() -> None:
    twin = replace(ONE, name="twin")

    def of(layer: ModelLayer, index: int, micros: float) -> list[Record]:
        both = cell(ONE, 16, BASELINE, 10), cell(ONE, 16, FP8, micros)
        return [replace(one, comparison=index, labels={"model": "mine", "layer": layer.name}) for one in both]

    advice = advise(*of(ONE, 0, 5), *of(twin, 1, 4), layers=[ONE, twin])
    assert [one.best.time.median for one in advice.layers] == pytest.approx([5e-6, 4e-6])
    assert advice.notes == ()
    alone = advise(*of(ONE, 0, 5), layers=[ONE, twin])
    assert [one.best.time.median for one in alone.layers] == pytest.approx([5e-6, 5e-6])


def test_the_first_table_has_both_accuracies_and_the_names_of_the_field() -> None:
    records = [
        replace(one, scheme_sqnr_db={"normal": 31.0, "outliers": 30.0}) if one.problem.scaling == ROW_WISE else one
        for one in PAPER
    ]
    advice = advise(*records)
    table = [line for line in markdown(advice).splitlines() if line.startswith("|")]
    header, _, _, per_tensor, row_wise = ([cell.strip() for cell in line.strip("|").split("|")] for line in table[:5])
    assert header == ["scheme", "also called", "all m", "SQNR, normal", "SQNR, outliers", "accurate", "m=16", "m=32"]
    assert per_tensor[3:6] == ["unknown", "unknown", "unknown"]
    assert row_wise[:2] == ["fp8 channel-w-token-a", "FP8 per channel and token; compressed-tensors FP8_DYNAMIC"]
    assert row_wise[3:6] == ["31.0 dB", "30.0 dB", "enough"]


def test_plain_text_says_what_markdown_says() -> None:
    advice = advise(*PAPER)

    def words(text: str) -> list[str]:
        return [word for word in re.sub(r"[-=:]{3,}|[|*#]", " ", text).split() if word.strip("-:")]

    assert words(plain_text(advice)) == words(markdown(advice))
    assert "|" not in plain_text(advice)
