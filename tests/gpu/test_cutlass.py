"""The CUTLASS kernels on a Hopper GPU: any size, any stride, any stream, in a graph, twice the same."""

from __future__ import annotations

import itertools
import random
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from w8a8_bench.correctness.check import check, poison  # noqa: E402
from w8a8_bench.correctness.operand_factory import OperandFactory  # noqa: E402
from w8a8_bench.correctness.oracle import Oracle  # noqa: E402
from w8a8_bench.environment import detect  # noqa: E402
from w8a8_bench.kernels.cutlass import blockwise_mm, compile_cache, configs, scaled_mm, scaled_mm_azp, warm_up  # noqa: E402
from w8a8_bench.kernels.cutlass.api import load_kernel  # noqa: E402
from w8a8_bench.kernels.cutlass.geometry import Schedule  # noqa: E402
from w8a8_bench.kernels.cutlass.variant import Variant  # noqa: E402
from w8a8_bench.problem import SCHEMES, GemmShape  # noqa: E402
from w8a8_bench.problem.distribution import Distribution  # noqa: E402
from w8a8_bench.problem.formats import Format  # noqa: E402
from w8a8_bench.problem.kernel_name import KernelName  # noqa: E402
from w8a8_bench.problem.operands import Operands  # noqa: E402
from w8a8_bench.providers import cutlass  # noqa: E402

NAMES = (
    *(f"cutlass_i8_i8_bf16_scaled_mm{end}" for end in ("", "_bias", "_azp", "_azp_bias", "_azp_pt", "_azp_pt_bias")),
    *(f"cutlass_fp8_fp8_{out}_scaled_mm{end}" for out in ("bf16", "fp16") for end in ("", "_bias", "_blockwise")),
)


def why_not() -> str | None:
    if not torch.cuda.is_available():
        return "this machine has no GPU that torch can use"
    if torch.cuda.get_device_capability() != (9, 0):
        return "the GPU is not of compute capability 9.0"
    return compile_cache.why_missing()


pytestmark = [pytest.mark.gpu, pytest.mark.skipif(why_not() is not None, reason=str(why_not()))]


def random_shapes(count: int) -> list[GemmShape]:
    """m dense around the sizes of tiles, n and k multiples of 16 and not only of 128."""
    rng = random.Random(1)
    edges = (1, 2, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129, 255, 256, 257)
    ms = [rng.choice(edges) if rng.random() < 0.7 else rng.randint(1, 4096) for _ in range(count)]
    return [GemmShape(m=m, n=16 * rng.randint(1, 512), k=16 * rng.randint(1, 512)) for m in ms]


def check_shape(shape: GemmShape, seed: int) -> None:
    """Every variant under one scheme, and under every one for the first: scales of all schemes are one kernel."""
    device = detect.resolve_device("cuda")
    factory = OperandFactory(shape, device.torch_name, data=Distribution.OUTLIERS.value, seed=seed, edge_cases=True)
    oracle = Oracle()
    for position, name in enumerate(NAMES):
        parsed = KernelName.parse(name)
        problems = [parsed.problem(shape, parsed.format, scheme) for scheme in SCHEMES]
        problems = [p for p in problems if not p.why_illegal() and cutlass.kernel(name).supports(p, device)]
        for problem in problems if position == 0 else [random.Random(seed + position).choice(problems)]:
            operands = factory.make(problem, guarded=True)
            launch = cutlass.kernel(name).prepare(problem, device).bind(operands).total
            launch()
            torch.cuda.synchronize()
            verdict = check(operands, oracle, fast_accum=not parsed.is_blockwise)
            assert verdict.ok, f"{name} {problem}: {verdict.reason}"
            assert_repeats(operands, launch)


def assert_repeats(operands: Operands, launch: object) -> None:
    """A replayed graph writes the same bits."""
    bits = operands.out.view(torch.int16)
    first = bits.clone()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        launch()
    poison(operands.out)
    graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(bits, first)


STEPS_AND_TILES = ((300, 784, 272), (1000, 2576, 640), (4096, 4096, 1024), (2048, 6144, 4096))
"""Fewer steps of k than stages, about as many, and more; fewer tiles than multiprocessors, and several for each."""


@pytest.mark.parametrize(
    "name", ["cutlass_fp8_fp8_bf16_scaled_mm", "cutlass_i8_i8_bf16_scaled_mm_azp_pt_bias", NAMES[-1]]
)
@pytest.mark.parametrize("shape", [GemmShape(m=m, n=n, k=k) for m, n, k in STEPS_AND_TILES], ids=str)
def test_every_schedule_writes_the_same_bits(name, shape):
    parsed = KernelName.parse(name)
    problem = parsed.problem(shape, parsed.format, parsed.default_scheme)
    operands = OperandFactory(shape, "cuda:0", data=Distribution.OUTLIERS.value, seed=1).make(problem)
    bits = operands.out.view(torch.int16)
    tried = 0
    schedules = (Schedule.STAGGERED, Schedule.OVERLAPPED)
    for tile, schedule in itertools.product(configs.portfolio(Variant.of(problem)), schedules):
        other = configs.fill(replace(tile, schedule=schedule), Variant.of(problem))
        if configs.legal(tile, problem) and configs.legal(other, problem):
            found = []
            for one in (tile, other):
                poison(operands.out)
                cutlass.bind(load_kernel(problem, 0, one), operands).total()
                torch.cuda.synchronize()
                found.append(bits.clone())
            assert torch.equal(*found), f"{other} differs from {tile}"
            tried += 1
    assert tried


@pytest.mark.parametrize("shape", random_shapes(300)[:20], ids=str)
def test_every_variant_is_right_on_random_shapes(shape):
    check_shape(shape, seed=shape.m)


@pytest.mark.slow
@pytest.mark.parametrize("shape", random_shapes(300)[20:], ids=str)
def test_every_variant_is_right_on_many_random_shapes(shape):
    check_shape(shape, seed=shape.m)


def operand(rows: int, columns: int, dtype: torch.dtype, pad: int = 0) -> torch.Tensor:
    """[rows, columns], rows `pad` elements apart."""
    wide = (torch.randn(rows, columns + pad, device="cuda") * 10).clamp(-100, 100).to(dtype)
    return wide[:, :columns]


def product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return a.double() @ b.double()


@pytest.mark.parametrize("m", [1, 16, 100, 300])
def test_rows_may_be_strided_and_outputs_given(m):
    n, k = 272, 528
    a, b = operand(m, k, torch.int8, pad=48), operand(n, k, torch.int8, pad=16).t()
    wide = torch.zeros(m, n + 24, dtype=torch.bfloat16, device="cuda")
    scale_a, scale_b = torch.rand(m, 2, device="cuda")[:, :1], torch.rand(1, 2 * n, device="cuda")[:, ::2]
    out = scaled_mm(a, b, scale_a, scale_b, torch.bfloat16, out=wide[:, :n])
    expected = product(a, b) * scale_a.double() * scale_b.double()
    assert out.data_ptr() == wide.data_ptr()
    assert torch.allclose(out.double(), expected, rtol=2**-8, atol=1e-6)
    assert not wide[:, n:].any()


@pytest.mark.parametrize("scales", [((), ()), ((1,), (1, 1)), ((64,), (80,)), ((64, 1), (80, 1))], ids=str)
def test_scales_may_have_the_shapes_that_vllm_passes(scales):
    a, b = operand(64, 128, torch.float8_e4m3fn), operand(80, 128, torch.float8_e4m3fn).t()
    scale_a, scale_b = (torch.rand(size, device="cuda") for size in scales)
    out = scaled_mm(a, b, scale_a, scale_b, torch.float16)
    expected = product(a, b) * scale_a.double().reshape(-1, 1) * scale_b.double().reshape(1, -1)
    assert torch.allclose(out.double(), expected, rtol=1e-2, atol=1.0)


def test_a_zero_point_goes_with_a_bias_and_either_way():
    a, b = operand(33, 160, torch.int8), operand(48, 160, torch.int8).t()
    one, bias = torch.ones(1, device="cuda") * 0.01, torch.randn(48, device="cuda").to(torch.bfloat16)
    sums = b.double().sum(0)
    azp = torch.randint(-50, 50, (33, 1), dtype=torch.int32, device="cuda")
    per_token = scaled_mm_azp(a, b, one, one, torch.bfloat16, sums.int(), azp, bias)
    per_tensor = scaled_mm_azp(a, b, one, one, torch.bfloat16, (7 * sums).int(), None, bias)
    for out, zero in ((per_token, azp.double()), (per_tensor, 7.0)):
        expected = (product(a, b) - zero * sums) * 1e-4 + bias.double()
        assert torch.allclose(out.double(), expected, rtol=2**-7, atol=1e-4)


def test_block_scales_may_have_any_layout():
    a, b = operand(5, 400, torch.float8_e4m3fn), operand(144, 400, torch.float8_e4m3fn).t()
    scale_a, scale_b = torch.rand(5, 4, device="cuda"), torch.rand(4, 2, device="cuda")
    row_major = blockwise_mm(a, b, scale_a, scale_b, torch.bfloat16)
    column_major = blockwise_mm(a, b, scale_a.t().contiguous().t(), scale_b.t().contiguous().t(), torch.bfloat16)
    assert torch.equal(row_major, column_major)


def test_work_goes_to_the_current_stream():
    a, b = operand(256, 4096, torch.int8), operand(4096, 4096, torch.int8).t()
    one = torch.ones(1, device="cuda")
    expected = scaled_mm(a, b, one, one, torch.bfloat16)
    out = torch.zeros_like(expected)
    torch.cuda.synchronize()
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        torch.cuda._sleep(100_000_000)
        scaled_mm(a, b, one, one, torch.bfloat16, out=out)
    assert not side.query()
    side.synchronize()
    assert torch.equal(out, expected)


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda a, b, out: (a, b, out[:, :-8]), r"out \[33, 72\]"),
        (lambda a, b, out: (a, b, out.half()), "out is torch.float16"),
        (lambda a, b, out: (a, b.t().contiguous().t().contiguous(), out), "expected rows that are contiguous"),
        (lambda a, b, out: (operand(33, 128, a.dtype, pad=8), b, out), "expected a multiple of 16"),
        (lambda a, b, out: (operand(33, 144, a.dtype)[:, 8:136], b, out), "expected a multiple of 16 bytes"),
        (lambda a, b, out: (a, b, out.cpu()), "out is on cpu"),
    ],
)
def test_what_the_kernel_can_not_take_is_explained(break_it, message):
    a, b = operand(33, 128, torch.int8), operand(80, 128, torch.int8).t()
    a, b, out = break_it(a, b, torch.empty(33, 80, dtype=torch.bfloat16, device="cuda"))
    one = torch.ones(1, device="cuda")
    with pytest.raises(ValueError, match=message):
        scaled_mm(a, b, one, one, torch.bfloat16, out=out)


def test_a_first_call_in_a_capture_is_refused():
    a, b = operand(19, 112, torch.int8), operand(208, 112, torch.int8).t()
    one, out = torch.ones(1, device="cuda"), torch.empty(19, 208, dtype=torch.bfloat16, device="cuda")
    with pytest.raises(RuntimeError, match="no graph can capture"), torch.cuda.graph(torch.cuda.CUDAGraph()):
        scaled_mm(a, b, one, one, torch.bfloat16, out=out)


@pytest.mark.parametrize("end", ["", "_bias", "_azp_pt_bias", "_blockwise"])
def test_a_first_call_after_warming_up_can_be_captured(end):
    blockwise = end == "_blockwise"
    name = f"cutlass_fp8_fp8_bf16_scaled_mm{end}" if blockwise else f"cutlass_i8_i8_bf16_scaled_mm{end}"
    parsed, shape = KernelName.parse(name), GemmShape(m=23, n=528, k=1104)
    azp = "token" if "azp_pt" in end else None
    dtype = torch.float8_e4m3fn if blockwise else torch.int8
    options = {"blockwise": blockwise, "bias": "bias" in end, "azp": azp}
    assert 1 < warm_up(range(1, 500), shape.n, shape.k, dtype, torch.bfloat16, **options) < 20
    problem = parsed.problem(shape, parsed.format, parsed.default_scheme)
    operands = OperandFactory(shape, "cuda:0", data=Distribution.NORMAL.value, seed=1).make(problem)
    scale_a, scale_b = operands.scales()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        if blockwise:
            blockwise_mm(operands.a, operands.b, scale_a, scale_b, torch.bfloat16, out=operands.out)
        elif azp:
            given = operands.azp_adj, operands.azp, operands.bias
            scaled_mm_azp(operands.a, operands.b, scale_a, scale_b, torch.bfloat16, *given, out=operands.out)
        else:
            scaled_mm(operands.a, operands.b, scale_a, scale_b, torch.bfloat16, operands.bias, out=operands.out)
    poison(operands.out)
    graph.replay()
    torch.cuda.synchronize()
    assert check(operands, Oracle(), fast_accum=not blockwise).ok


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("compute-sanitizer") is None, reason="compute-sanitizer is not on the PATH")
@pytest.mark.parametrize("tool", ["memcheck", "racecheck"])
def test_compute_sanitizer_finds_nothing(tool):
    """API errors are left out: cuda-bindings looks for entry points that a driver may lack."""
    command = ["compute-sanitizer", "--tool", tool, "--error-exitcode", "9"]
    command += ["--report-api-errors", "no"] if tool == "memcheck" else []
    script = Path(__file__).with_name("launch_variants.py")
    done = subprocess.run([*command, sys.executable, str(script)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert re.search(r"^\d+ launches$", done.stdout, re.MULTILINE)


def test_formats_are_those_of_the_names():
    assert {KernelName.parse(name).format for name in NAMES} == {Format.INT8, Format.FP8}
