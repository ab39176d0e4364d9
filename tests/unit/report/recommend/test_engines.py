"""What vLLM and SGLang are started with, to have them run what is recommended."""

from __future__ import annotations

import re

import pytest
from made_model import FP8, ONE, ROW_WISE, advise, cell, source
from made_results import HEADER

from w8a8_bench.problem import BLOCKWISE, SCHEMES, Azp, Scaling
from w8a8_bench.problem.formats import Format
from w8a8_bench.problem.kernel_name import BASELINE
from w8a8_bench.providers import registry
from w8a8_bench.report.recommend.engines import ENGINES, SGLANG, VLLM
from w8a8_bench.report.recommend.recommend import Recommendation
from w8a8_bench.report.recommend.render import markdown, to_json
from w8a8_bench.report.scheme import Scheme
from w8a8_bench.results.record import Record

GPU = {**HEADER.device, "kind": "cuda", "name": "NVIDIA H200"}
BLOCKED = Scheme(Format.FP8, BLOCKWISE, Azp.NONE)
PER_TOKEN = Scheme(Format.FP8, ROW_WISE, Azp.NONE)
VLLM_FP8, OURS = "vllm_fp8_fp8_bf16_scaled_mm", "cutlass_fp8_fp8_bf16_scaled_mm"


def on_a_gpu(*records: Record) -> Recommendation:
    return advise(layers=[ONE], sources=[source(*records, device=GPU)])


def test_every_library_and_scheme_of_the_table_is_one_that_is_measured() -> None:
    known = {provider.name for provider in registry.PROVIDERS}
    legal = {scheme.name for scheme in SCHEMES}
    for engine in ENGINES:
        assert re.fullmatch(r"\d+\.\d+\.\d+", engine.version)
        for way in engine.ways:
            assert way.provider in known
            assert set(way.schemes) <= legal
            assert way.runs or not way.option, "there is an option for kernels that are not run"


@pytest.mark.parametrize(
    ("engine", "scheme", "provider", "said"),
    [
        (VLLM, PER_TOKEN, "vllm", "--linear-backend cutlass"),
        (VLLM, BLOCKED, "deepgemm", "--linear-backend deep_gemm"),
        (VLLM, PER_TOKEN, "pytorch", "none"),
        (VLLM, PER_TOKEN, "cutlass", "none"),
        (SGLANG, BLOCKED, "deepgemm", "--fp8-gemm-backend deep_gemm"),
        (SGLANG, BLOCKED, "sglang", "none"),
        (SGLANG, PER_TOKEN, "sglang", "no option is needed"),
        (VLLM, Scheme(Format.INT8, ROW_WISE, Azp.TOKEN), "vllm", "--linear-backend cutlass"),
        (SGLANG, Scheme(Format.INT8, ROW_WISE, Azp.TOKEN), "sglang", "none"),
    ],
)
def test_the_option_goes_with_engine_scheme_and_library(engine, scheme, provider, said) -> None:
    assert engine.way(scheme, provider).text == said


def test_an_engine_gets_the_best_that_it_can_run_and_not_the_best_that_there_is() -> None:
    advice = on_a_gpu(
        cell(ONE, 16, BASELINE, 10), cell(ONE, 16, OURS, 4, ROW_WISE), cell(ONE, 16, VLLM_FP8, 5, ROW_WISE)
    )
    assert advice.one_library.deploy.providers == ["cutlass"]
    text = markdown(advice)
    first, _, rest = text.partition("\n## ")
    assert (
        "In vLLM 0.33.0: fp8 channel-w-token-a from vllm, 2.00x ±0.00%; start it with --linear-backend cutlass" in first
    )
    assert "In SGLang 0.5.23: the choice has no kernel that it runs with a time at every m." in first
    row = next(line for line in rest.splitlines() if line.startswith("| vLLM") and "| cutlass " in line)
    assert "| none " in row and "kernels of w8a8-bench; the engine's CUTLASS kernels are others" in row
    of_vllm, of_sglang = to_json(advice)["engines"]
    assert of_vllm["deploy"]["option"] == "--linear-backend cutlass"
    assert {one["provider"]: one["option"] for one in of_vllm["options"]} == {
        "vllm": "--linear-backend cutlass",
        "cutlass": None,
    }
    assert of_sglang["deploy"] is None


def test_fast_accumulation_is_not_recommended_for_an_engine_that_has_no_option_for_it() -> None:
    per_tensor = Scaling.parse("tensor-w-tensor-a")
    records = [cell(ONE, 16, BASELINE, 10), cell(ONE, 16, FP8, 8), cell(ONE, 16, f"{FP8}_fast_accum", 5)]
    in_vllm, _ = on_a_gpu(*records).engines
    assert in_vllm.deploy is not None
    assert in_vllm.deploy.scheme.scaling == per_tensor
    assert in_vllm.deploy.overall.median == pytest.approx(10 / 8)


def test_sixteen_bits_are_kept_in_an_engine_whose_kernels_are_slower() -> None:
    slow = [cell(ONE, 16, BASELINE, 10), cell(ONE, 16, VLLM_FP8, 12), cell(ONE, 16, OURS, 4)]
    in_vllm, _ = on_a_gpu(*slow).engines
    assert in_vllm.way is None
    assert "In vLLM 0.33.0: bf16; nothing that it runs is faster." in markdown(on_a_gpu(*slow))


def test_nothing_is_said_of_engines_for_records_of_a_cpu() -> None:
    records = [cell(ONE, 16, BASELINE, 10), cell(ONE, 16, FP8, 5)]
    on_a_cpu = advise(*records, layers=[ONE])
    assert on_a_cpu.engines == ()
    assert "vLLM" not in markdown(on_a_cpu).partition("\n## ")[0]
