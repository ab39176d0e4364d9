"""Recommendations that can be obeyed: accurate enough, of libraries that are there, for one's own mix of m."""

from __future__ import annotations

import pytest
from copies import replace
from made_model import FP8, ONE, PAPER, ROW_WISE, TWO, advise, cell, refusal, source

from w8a8_bench.kernel import Status
from w8a8_bench.problem.kernel_name import BASELINE
from w8a8_bench.report.recommend.choices import Requirements
from w8a8_bench.report.recommend.render import markdown, to_json
from w8a8_bench.results.json_lines import Results
from w8a8_bench.results.record import Record

INT8 = "pytorch_i8_i8_bf16_scaled_mm"


def test_by_default_a_scheme_that_loses_more_than_8_db_with_outliers_is_not_recommended() -> None:
    def with_int8(sqnr_db: float) -> list[Record]:
        return [
            cell(ONE, 16, BASELINE, 10),
            cell(ONE, 16, FP8, 5, ROW_WISE, scheme_sqnr_db={"normal": 28.0, "outliers": 28.0}),
            cell(ONE, 16, INT8, 4, scheme_sqnr_db={"normal": 38.0, "outliers": sqnr_db}),
        ]

    assert advise(*with_int8(20.0), layers=[ONE]).deploy.scheme.text == "int8 tensor-w-tensor-a"
    advice = advise(*with_int8(19.9), layers=[ONE])
    assert advice.deploy.scheme.text == "fp8 channel-w-token-a"
    first = markdown(advice).partition("\n## ")[0]
    assert (
        "may lose 8 dB of SQNR against fp8 channel-w-token-a, which has 28.0 dB here. Not recommended for that: "
        in first
    )
    assert "int8 tensor-w-tensor-a (19.9 dB). Without the limit it would be int8 tensor-w-tensor-a, 2.50x" in first
    assert "--any-accuracy lifts the limit" in first
    lifted = advise(*with_int8(19.9), layers=[ONE], required=Requirements(any_accuracy=True))
    assert lifted.deploy.scheme.text == "int8 tensor-w-tensor-a"
    assert "Accuracy does not count (--any-accuracy)." in markdown(lifted)
    set_ = advise(*with_int8(19.9), layers=[ONE], required=Requirements(min_sqnr_db=19))
    assert set_.deploy.scheme.text == "int8 tensor-w-tensor-a", "--min-sqnr overrides the default"


def test_accuracy_is_judged_once_for_the_model() -> None:
    """INT8 is too inaccurate in one layer: it is the best of no layer, though the other one would bear it."""
    records = [
        cell(layer, 16, kernel, micros, scaling, scheme_sqnr_db={"outliers": sqnr_db})
        for layer, of_int8 in ((ONE, 30.0), (TWO, 10.0))
        for kernel, micros, scaling, sqnr_db in ((FP8, 5, ROW_WISE, 28.0), (INT8, 4, None, of_int8))
    ]
    advice = advise(cell(ONE, 16, BASELINE, 10), cell(TWO, 16, BASELINE, 10), *records)
    assert [one.best.record.kernel for one in advice.layers] == [FP8, FP8]


@pytest.mark.parametrize(("sqnr_db", "best"), [(20.0, INT8), (19.9, BASELINE)])
def test_without_the_reference_an_absolute_limit_stands_in(sqnr_db, best) -> None:
    records = cell(ONE, 16, BASELINE, 10), cell(ONE, 16, INT8, 4, scheme_sqnr_db={"outliers": sqnr_db})
    advice = advise(*records, layers=[ONE])
    assert advice.layers[0].best.record.kernel == best
    assert "On data with outliers a scheme needs an SQNR of 20 dB. The records lack fp8 channel-w-token-a" in markdown(
        advice
    )


def test_without_an_sqnr_of_outliers_the_first_lines_say_that_accuracy_was_not_judged() -> None:
    records = [replace(one, scheme_sqnr_db={"normal": 3.0}) if one.kernel == FP8 else one for one in PAPER]
    advice = advise(*records)
    assert advice.deploy.scheme.text == "fp8 channel-w-token-a"
    said = "Accuracy could not be judged, so speed alone decides: the records have no SQNR with outliers."
    assert said in markdown(advice).partition("\n## ")[0]
    assert to_json(advice)["accuracy"] == {"least_sqnr_db": None, "data": None, "said": said}


CUTLASS_INT8, VLLM_INT8 = "cutlass_i8_i8_bf16_scaled_mm", "vllm_i8_i8_bf16_scaled_mm"
TWO_LIBRARIES = [
    cell(ONE, 16, BASELINE, 10),
    cell(ONE, 16, FP8, 5, ROW_WISE),
    replace(cell(ONE, 16, CUTLASS_INT8, 2), provider="cutlass"),
    replace(cell(ONE, 16, VLLM_INT8, 4), provider="vllm"),
]


def test_the_choice_is_among_the_libraries_that_are_named_and_the_best_of_all_stands_beside_it() -> None:
    advice = advise(*TWO_LIBRARIES, layers=[ONE], required=Requirements(providers=("vllm",)))
    assert (advice.layers[0].best.record.kernel, advice.deploy.overall.median) == (VLLM_INT8, pytest.approx(2.5))
    best, faster = advice.best_of_all
    assert (best.scheme.text, best.providers, faster.median) == (
        "int8 tensor-w-tensor-a",
        ["cutlass"],
        pytest.approx(2.0),
    )
    first, *others = markdown(advice).split("\n## ")
    assert "Only kernels of vllm are chosen from (--providers). The best of all kernels in the records is int8" in first
    assert "5.00x ±0.00%, from cutlass; that is 2.00x as fast." in first
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")][2:4] for line in others[0].splitlines() if "fp8" in line
    ]
    assert rows == [["-", "2.00x ±0.00%"]], "a scheme that vllm has no kernel of"
    assert to_json(advice)["best_of_all_providers"]["times_faster"] == pytest.approx(2.0)
    both = advise(*TWO_LIBRARIES, layers=[ONE], required=Requirements(providers=("vllm", "cutlass")))
    assert both.deploy.providers == ["cutlass"]
    everything = advise(*TWO_LIBRARIES, layers=[ONE])
    assert (everything.deploy.providers, everything.best_of_all) == (["cutlass"], None)


def test_a_library_without_a_kernel_to_choose_is_refused_with_those_that_have_one() -> None:
    assert refusal(*TWO_LIBRARIES, layers=[ONE], required=Requirements(providers=("sglang", "deepgemm"))) == (
        "no kernel of sglang, deepgemm to choose: those that can be chosen in these records are of "
        "cutlass, pytorch, vllm"
    )


def test_what_the_records_lack_and_what_was_dropped_stand_in_the_first_lines() -> None:
    failed = replace(cell(ONE, 16, "triton_i8_i8_bf16_scaled_mm", 1, status=Status.FAILED), provider="triton")
    known = ("pytorch", "cutlass", "vllm", "triton", "sglang")
    advice = advise(*TWO_LIBRARIES, failed, layers=[ONE], providers=known)
    assert advice.not_considered == (
        "schemes fp8 tensor-w-tensor-a, fp8 tensor-w-token-a, fp8 channel-w-tensor-a, fp8 block-w-group-a, "
        "int8 tensor-w-token-a, int8 channel-w-tensor-a, int8 channel-w-token-a",
        "zero points int8",
        "libraries sglang",
        "usable times of triton",
        "activations dynamic",
    )
    first = markdown(advice).partition("\n## ")[0]
    assert "Not considered, since the records lack them: schemes fp8 tensor-w-tensor-a, " in first
    assert "Left out of the choice: failed (1 cell). The notes name the kernels." in first
    data = to_json(advice)
    assert (data["not_considered"], data["left_out"]) == (list(advice.not_considered), {"failed": 1})
    fp8_alone = advise(*TWO_LIBRARIES[:2], layers=[ONE])
    assert fp8_alone.not_considered[0] == "formats int8"
    assert "int8" not in fp8_alone.not_considered[1], "a format that is lacking is named once"


def on_card(uuid: str, *records: Record, name: str) -> Results:
    card = {"kind": "cuda", "name": "H200", "uuid": uuid}
    return source(*records, name=name, device=card, devices=(card,))


def test_cards_of_one_name_are_pooled_by_the_baseline_beside_each_cell() -> None:
    """The second card is twice as slow in everything: its cells gain as much as if the first had measured them."""
    first = on_card("GPU-1", cell(ONE, 16, BASELINE, 10), cell(ONE, 16, FP8, 5), name="1.jsonl")
    second = on_card("GPU-2", cell(ONE, 16, BASELINE, 20), cell(ONE, 16, INT8, 8), name="2.jsonl")
    advice = advise(layers=[ONE], sources=[first, second])
    best = advice.layers[0].best
    assert (best.record.kernel, best.speedup.median) == (INT8, pytest.approx(2.5))
    assert best.time.median == pytest.approx(4e-6), "as beside the first baseline"
    assert advice.times[0].single.speedup.median == pytest.approx(2.5)


def test_a_comparison_without_a_baseline_has_that_of_another_file_of_its_gpu() -> None:
    first = on_card("GPU-1", cell(ONE, 16, BASELINE, 10), cell(ONE, 16, FP8, 5), name="1.jsonl")
    alone = on_card("GPU-1", cell(ONE, 16, INT8, 4), name="2.jsonl")
    advice = advise(layers=[ONE], sources=[alone, first])
    assert (advice.layers[0].best.record.kernel, advice.deploy.overall.median) == (INT8, pytest.approx(2.5))
    assert any(note.startswith("without a bf16 beside it: 1 cell; ") for note in advice.notes)
    elsewhere = on_card("GPU-2", cell(ONE, 16, INT8, 4), name="2.jsonl")
    advice = advise(layers=[ONE], sources=[elsewhere, first])
    assert advice.layers[0].best.record.kernel == FP8
    assert advice.dropped == {"no time of the baseline on its GPU": 1}


def test_cells_that_two_cards_measured_are_still_compared_by_samples_of_the_same_blocks() -> None:
    records = cell(ONE, 16, BASELINE, 10, spread=0.2), cell(ONE, 16, FP8, 5), cell(ONE, 16, FP8, 4.85, ROW_WISE)
    both = [on_card(f"GPU-{i}", *records, name=f"{i}.jsonl") for i in (1, 2)]
    assert advise(layers=[ONE], sources=both).layers[0].best.scheme.text == "fp8 channel-w-token-a"


def test_a_mix_of_m_weighs_the_times_and_not_the_ratios() -> None:
    advice = advise(*PAPER, required=Requirements(mix={16: 3, 32: 1}))
    overall = {row.scheme.text: row.overall.median for row in advice.schemes}
    # Three passes of m = 16 and one of m = 32.
    assert overall == {
        "bf16": pytest.approx(1.0),
        "fp8 tensor-w-tensor-a": pytest.approx((3 * 80 + 96) / (3 * 58 + 84)),
        "fp8 channel-w-token-a": pytest.approx((3 * 80 + 96) / (3 * 62 + 47.94)),
    }
    assert advice.deploy.scheme.text == "fp8 channel-w-token-a"
    assert "(the whole time of forward passes, 0.75 of m=16, 0.25 of m=32)" in markdown(advice)
    mostly_small = advise(*PAPER, required=Requirements(mix={16: 30, 32: 1}))
    assert mostly_small.deploy.scheme.text == "fp8 tensor-w-tensor-a"
    assert {one.m for one in advise(*PAPER, required=Requirements(mix={16: 1})).layers} == {16}


def test_one_scheme_and_one_library_for_all_says_where_another_is_better_and_what_staying_costs() -> None:
    def of(m: int, baseline: float, **micros: float) -> list[Record]:
        names = {"cutlass": CUTLASS_INT8, "vllm": VLLM_INT8}
        return [
            cell(ONE, m, BASELINE, baseline),
            *(replace(cell(ONE, m, names[name], time), provider=name) for name, time in micros.items()),
        ]

    records = [*of(16, 10, cutlass=5, vllm=6), *of(32, 10, cutlass=5, vllm=4), *of(64, 10, cutlass=5, vllm=4)]
    advice = advise(*records, layers=[ONE])
    one = advice.one_library
    assert one.deploy.providers == ["vllm"]
    assert [(at.m, at.best.providers, at.ratio.median) for at in one.by_m] == [
        (16, ["cutlass"], pytest.approx(1.2)),
        (32, ["vllm"], 1.0),
        (64, ["vllm"], 1.0),
    ]
    assert one.ratio.median == pytest.approx(1.2 ** (1 / 3))
    said = (
        "The best changes: from m=16 int8 tensor-w-tensor-a from cutlass, from m=32 int8 tensor-w-tensor-a from vllm. "
    )
    assert f"{said}Keeping one costs 6.3% more time." in markdown(advice)
    weighted = advise(*records, layers=[ONE], required=Requirements(mix={16: 8, 32: 1, 64: 1})).one_library
    assert (weighted.deploy.providers, weighted.ratio.median) == (["cutlass"], pytest.approx(50 / 48))
    data = to_json(advice)["one_scheme_and_provider"]
    assert data["by_m"][0]["best"] == {"scheme": "int8 tensor-w-tensor-a", "providers": ["cutlass"]}
    alone = advise(*of(16, 10, cutlass=5, vllm=6), layers=[ONE])
    assert "Nothing is faster at any m by more than 1%." in markdown(alone)
