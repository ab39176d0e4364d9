"""A made-up sweep of a made-up H200 with everything that a report shows: providers, schemes, quantization inside the
timed region, accuracy, cliffs, refusals and faults, as large as a test wants it.

    PYTHONPATH=src:tests/unit python3 tests/unit/made_sweep.py 20000 > made.jsonl    at least as many records
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
from copies import replace
from made_devices import H200

from w8a8_bench.kernel import Status
from w8a8_bench.problem import Activations, GemmShape, Scaling
from w8a8_bench.problem.kernel_name import BASELINE, KernelName
from w8a8_bench.problem.work import bytes_moved, flops
from w8a8_bench.results.json_lines import Results
from w8a8_bench.results.measured_comparison import MeasuredComparison
from w8a8_bench.results.record import SCHEMA, ComparisonEnd, Record, RunHeader, to_json

COLD, HOT = "time_cold_l2", "time_hot_l2"
TOKENS = (1, 16, 17, 32, 64, 128, 256, 512, 1024, 4096)
LAYERS = (
    ("meta-llama/Llama-3.1-8B-Instruct", "qkv_proj", 6144, 4096),
    ("meta-llama/Llama-3.1-8B-Instruct", "o_proj", 4096, 4096),
    ("meta-llama/Llama-3.1-8B-Instruct", "gate_up_proj", 28672, 4096),
    ("meta-llama/Llama-3.1-8B-Instruct", "down_proj", 4096, 14336),
)
TENSOR, TOKEN, BLOCK = "tensor-w-tensor-a", "channel-w-token-a", "block-w-group-a"
DYNAMIC = Activations.DYNAMIC
CELLS: tuple[tuple[str, str | None, Activations], ...] = (
    (BASELINE, None, Activations.PREQUANTIZED),
    ("pytorch_fp8_fp8_bf16_scaled_mm", TENSOR, Activations.PREQUANTIZED),
    ("pytorch_fp8_fp8_bf16_scaled_mm", TOKEN, Activations.PREQUANTIZED),
    ("pytorch_fp8_fp8_bf16_scaled_mm", TOKEN, DYNAMIC),
    ("pytorch_i8_i8_bf16_scaled_mm", TENSOR, Activations.PREQUANTIZED),
    ("cutlass_fp8_fp8_bf16_scaled_mm", TENSOR, Activations.PREQUANTIZED),
    ("cutlass_fp8_fp8_bf16_scaled_mm", TOKEN, Activations.PREQUANTIZED),
    ("cutlass_fp8_fp8_bf16_scaled_mm", TOKEN, DYNAMIC),
    ("cutlass_i8_i8_bf16_scaled_mm", TENSOR, Activations.PREQUANTIZED),
    ("cutlass_i8_i8_bf16_scaled_mm_azp_pt", TOKEN, Activations.PREQUANTIZED),
    ("cutlass_i8_i8_bf16_scaled_mm_azp_pt", TOKEN, DYNAMIC),
    ("triton_fp8_fp8_fp16_scaled_mm_blockwise", BLOCK, Activations.PREQUANTIZED),
    ("triton_fp8_fp8_fp16_scaled_mm_blockwise", BLOCK, DYNAMIC),
    ("vllm_fp8_fp8_bf16_scaled_mm", TOKEN, Activations.PREQUANTIZED),
)
SQNR = {TENSOR: (31.2, 18.4), TOKEN: (33.0, 28.9), BLOCK: (34.1, 32.5)}
"""Of normal data and of outliers, in dB, as a scheme of fp8 might have it; int8 is given 6 dB more and 4 less."""
EFFICIENCY = {"pytorch": 0.72, "cutlass": 0.80, "triton": 0.62, "vllm": 0.78}
REFUSAL = "k=4096 <made up>: split-k needs k of at least 8192"


def header(**device: object) -> RunHeader:
    facts = {
        **msgspec.to_builtins(H200),
        "name": "NVIDIA H200",
        "uuid": "GPU-0fc5f694-db76-cb84-ce85-7ece737d91ca",
        **device,
    }
    return RunHeader(
        schema=SCHEMA,
        resumed=False,
        command=("w8a8-bench", "model_bench", "--dtype", "fp8", "int8"),
        time="2026-11-20T12:00:00+00:00",
        environment={"w8a8_bench": "0.1.0", "torch": "2.13.0", "driver": "580.159.04", "power_limit_w": 700.0},
        device=facts,
        plan={"command": "model_bench", "dtypes": ["fp8", "int8"], "data": "normal", "rigor": "standard"},
        settings={"seed": 0, "data": "normal", "timer": "graph", "measures": [COLD, HOT], "duty": 0.5, "processes": 1},
    )


def comparisons(
    layers: Sequence[tuple[str, str, int, int]], tokens: Sequence[int], blocks: int, seed: int = 0
) -> Iterator[tuple[list[Record], ComparisonEnd]]:
    """Records and end of every layer at every m; the same for the same arguments."""
    chance = random.Random(seed)
    places = [(layer, m) for layer in layers for m in tokens]
    for index, ((model, name, n, k), m) in enumerate(places):
        labels = {"model": model, "layer": name, "tp": 1}
        shape = GemmShape(m=m, n=n, k=k)
        drift = [chance.gauss(1, 0.004) for _ in range(blocks)]
        records = [_record(index, shape, labels, cell, drift, chance) for cell in CELLS]
        yield records, _end(index, shape, labels, records, drift, chance)


def made_sweep(
    layers: Sequence[tuple[str, str, int, int]] = LAYERS,
    tokens: Sequence[int] = TOKENS,
    blocks: int = 12,
    **device: object,
) -> Results:
    parts = list(comparisons(layers, tokens, blocks))
    run = header(**device)
    measured = tuple(MeasuredComparison(tuple(records), end, run) for records, end in parts)
    return Results((run,), measured, (), Path("made.jsonl"))


def lines(results: Results) -> Iterator[str]:
    """The file that holds `results` of one header."""
    yield json.dumps(to_json(results.headers[0]))
    for comparison in results.comparisons:
        for record in comparison.records:
            yield json.dumps(to_json(record))
        yield json.dumps(to_json(comparison.end))


def large_sweep(at_least: int, blocks: int = 12) -> Results:
    """As many layers as it takes, each with its own n and k."""
    count = -(-at_least // (len(CELLS) * len(TOKENS)))
    layers = [(f"model-{i // 4}", LAYERS[i % 4][1], 1024 + 128 * i, 4096) for i in range(count)]
    return made_sweep(layers, blocks=blocks)


def _record(index, shape, labels, cell, drift, chance) -> Record:
    kernel, scheme, activations = cell
    name = KernelName.parse(kernel)
    problem = name.problem(shape, name.format, Scaling.parse(scheme) if scheme else None, activations)
    made = Record(
        comparison=index,
        kernel=kernel,
        provider=name.provider,
        problem=problem,
        labels=labels,
        status=Status.OK,
        reason="",
        error={"relative": 1.7e-3 * chance.uniform(0.9, 1.2), "worst": 0.3},
        config={"tile": [128, 64 if shape.m <= 64 else 256], "stages": 4} if name.provider == "cutlass" else {},
        samples={},
        blocks={},
        launches_per_sample={},
        clock_mhz={},
        flags=(),
    )
    if scheme:
        int8 = name.format.value == "int8"
        normal, outliers = SQNR[scheme]
        accuracy = {"normal": normal + 6 * int8, "outliers": outliers - 4 * int8}
        made = replace(made, scheme_sqnr_db={data: db + chance.uniform(-0.4, 0.4) for data, db in accuracy.items()})
    status, reason = _fate(name, shape)
    if status is not Status.OK:
        return replace(made, status=status, reason=reason, error=None, config={})
    cold = _seconds(name, problem, shape)
    quant = (2.1e-6 + 3 * shape.m * shape.k / 4.0e12) if activations is DYNAMIC else 0.0
    times = {COLD: cold + 0.85 * quant, HOT: 0.8 * cold + 0.6 * quant}
    if activations is DYNAMIC:
        times |= {f"{COLD}_quant": quant, f"{COLD}_gemm": cold}
    samples = {
        measure: tuple(seconds * shift * chance.gauss(1, 0.0015) for shift in drift)
        for measure, seconds in times.items()
    }
    return replace(
        made,
        samples=samples,
        blocks={measure: tuple(range(len(drift))) for measure in samples},
        launches_per_sample=dict.fromkeys(samples, 64),
        clock_mhz={COLD: tuple(1815.0 + 5 * chance.random() for _ in drift)},
        rotation={"sets": 4, "bytes": bytes_moved(problem), "scrubbed": 0},
        flags=("power_capped",) if shape.m >= 4096 else (),
    )


def _fate(name: KernelName, shape: GemmShape) -> tuple[Status, str]:
    if name.provider == "vllm":
        return Status.UNSUPPORTED, "vllm is not installed"
    if name.format.value == "int8" and name.provider == "pytorch" and shape.m <= 16:
        return Status.UNSUPPORTED, f"m={shape.m}: torch._int_mm needs more than 16"
    if name.is_blockwise and shape.m == 17:
        return Status.INCORRECT, "row 16, column 3: error 0.5 of 0.1 allowed"
    if name.variant == "azp_pt" and shape.m == 1:
        return Status.UNSUPPORTED, REFUSAL
    return Status.OK, ""


def _seconds(name: KernelName, problem, shape: GemmShape) -> float:
    peak = 0.9e15 if name.is_baseline else 1.75e15
    whole = max(flops(problem) / peak, bytes_moved(problem) / 4.5e12)
    tile = -(-shape.m // 64) * 64 / shape.m if shape.m > 64 else 1.0
    cliff = 1.35 if name.provider == "cutlass" and shape.m == 17 else 1.0
    by_scheme = 1.12 if problem.scaling and problem.scaling.name == TOKEN and name.provider == "pytorch" else 1.0
    return (2.2e-6 + whole * tile / EFFICIENCY[name.provider]) * cliff * by_scheme


def _end(index, shape, labels, records, drift, chance) -> ComparisonEnd:
    first = records[0]
    again = tuple(seconds * chance.gauss(1, 0.001) for seconds in first.samples[COLD])
    state = {"power_w": 420.0, "temperature_c": 44.0, "memory_clock_mhz": 3201.0, "throttle": [], "void": False}
    return ComparisonEnd(
        index=index,
        shape=shape,
        labels=labels,
        seconds={"setup": 0.1, "check": 0.5, "timing": 1.4},
        blocks=len(drift),
        cells=len(records),
        duplicate={
            "kernel": BASELINE,
            "cell": BASELINE,
            "samples": {COLD: again},
            "blocks": {COLD: first.blocks[COLD]},
        },
        machine={"telemetry": "NVML", "blocks": [state] * 3, "other_processes": 0, "voided_blocks": 0},
        memory_bytes=1 << 31,
    )


if __name__ == "__main__":
    for line in lines(large_sweep(int(sys.argv[1]))):
        print(line)
