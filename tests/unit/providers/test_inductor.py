"""Inductor's kernels on a CPU: what is compiled, when, and what is refused. One kernel is compiled by Inductor itself;
elsewhere Dynamo traces the same functions, and a stand-in for Inductor runs them as they are."""

from __future__ import annotations

import shutil

import pytest
import torch
from copies import replace
from made_devices import CPU
from made_peers import EVEN, GPU, PER_TOKEN, judge, legal, made, problem_of
from torch._dynamo.utils import counters

from w8a8_bench.correctness.returned_output import take_output
from w8a8_bench.kernel import CompileError, Refused
from w8a8_bench.problem import BLOCKWISE, PER_TENSOR, Activations, GemmShape
from w8a8_bench.providers import inductor, registry

NAMES = [name for provider in registry.PROVIDERS if provider.name == "inductor" for name in provider.on_request]
INT8 = "inductor_i8_i8_bf16_scaled_mm"
FP8 = "inductor_fp8_fp8_bf16_scaled_mm"


def graphs() -> int:
    """How many graphs Dynamo has traced."""
    return counters["stats"]["unique_graphs"]


@pytest.fixture
def traced(monkeypatch) -> list[dict[str, object]]:
    """The arguments of each `torch.compile`, whose backend runs the graph uncompiled."""
    real, asked = torch.compile, []

    def compile_eagerly(function, **given):
        asked.append(given)
        return real(function, backend="eager", fullgraph=given["fullgraph"], dynamic=given["dynamic"])

    monkeypatch.setattr(torch, "compile", compile_eagerly)
    return asked


def writes_out(operands, launch):
    """The launch of a kernel that returns D, followed by what the runner does with it."""

    def launched() -> None:
        assert take_output([launch()], 0, operands.out) == {"output": "returned"}

    return launched


def answer(name: str, scheme, shape: GemmShape) -> str:
    operands = made(name, scheme, shape)
    kernel = inductor.kernel(name)
    assert kernel.supports(operands.problem, CPU)
    prepared = kernel.prepare(operands.problem, CPU)
    before = graphs()
    launch = prepared.bind(operands).total
    said = judge(operands, writes_out(operands, launch), fast_accum=kernel.fast_accum)
    assert graphs() == before, "it was compiled for other layouts than it got"
    return said


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="Inductor needs a C++ compiler")
def test_inductor_compiles_the_int8_product_and_its_epilogue(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    assert answer(f"{INT8}_bias", PER_TOKEN, EVEN) == ""
    assert list(tmp_path.rglob("*.so")), "nothing was compiled"


@pytest.mark.parametrize("shape", [EVEN, GemmShape(m=1, n=16, k=1), GemmShape(m=3, n=1, k=16)])
@pytest.mark.parametrize(("name", "scheme"), legal([name for name in NAMES if name.startswith(INT8)]))
def test_a_product_is_traced_in_prepare_for_the_layouts_that_it_gets(traced, name, scheme, shape):
    assert answer(name, scheme, shape) == ""


def test_more_shapes_than_dynamo_recompiles_one_function_for_are_compiled(traced):
    for m in range(1, torch._dynamo.config.recompile_limit + 3):
        assert answer(INT8, PER_TENSOR, GemmShape(m=m, n=8, k=8)) == ""


def test_every_compilation_is_told_the_mode_and_keeps_no_choice(traced):
    assert answer(INT8, PER_TENSOR, EVEN) == ""
    (given,) = traced
    assert (given["fullgraph"], given["dynamic"]) == (True, False)
    assert given["options"] == {
        "max_autotune": True,
        "coordinate_descent_tuning": True,
        "compile_threads": 1,
        "fx_graph_cache": False,
        "autotune_local_cache": False,
    }


@pytest.mark.parametrize(("name", "scheme"), legal([name for name in NAMES if not name.startswith(INT8)]))
def test_the_fp8_product_is_torchs_with_scales_as_it_takes_them(monkeypatch, name, scheme):
    asked = []

    def scaled_mm(a, b, scale_a, scale_b, *, out_dtype, use_fast_accum):
        asked.append((tuple(scale_a.shape), tuple(scale_b.shape), use_fast_accum))
        assert scale_a.is_contiguous() and scale_b.is_contiguous()
        return (a.double() @ b.double() * scale_a * scale_b).to(out_dtype)

    monkeypatch.setattr(torch, "_scaled_mm", scaled_mm)
    operands = made(name, scheme)
    product = inductor.scaled_mm(torch.bfloat16, fast_accum=inductor.kernel(name).fast_accum)
    assert judge(operands, writes_out(operands, inductor.bind(product, operands).total)) == ""
    shapes = ((), ()) if scheme == PER_TENSOR else ((EVEN.m, 1), (1, EVEN.n))
    assert asked == [(*shapes, name.endswith("_fast_accum"))]


def test_what_the_compiler_raises_is_a_compile_error(monkeypatch):
    def lowering_fails(graph, inputs):
        raise ValueError("no valid choice")

    real = torch.compile
    monkeypatch.setattr(torch, "compile", lambda function, **given: real(function, backend=lowering_fails))
    with pytest.raises(CompileError, match=r"^ValueError: no valid choice$"):
        inductor.kernel(INT8).prepare(problem_of(INT8, PER_TENSOR, EVEN), CPU)


def test_no_compiler_is_a_refusal(monkeypatch):
    from torch._inductor.exc import InvalidCxxCompiler

    def no_compiler(graph, inputs):
        raise InvalidCxxCompiler

    real = torch.compile
    monkeypatch.setattr(torch, "compile", lambda function, **given: real(function, backend=no_compiler))
    with pytest.raises(Refused, match=r"finds no compiler: .*C\+\+"):
        inductor.kernel(INT8).prepare(problem_of(INT8, PER_TENSOR, EVEN), CPU)


@pytest.mark.parametrize(
    ("name", "sizes", "device", "scheme", "says"),
    [
        (INT8, (17, 64, 64), GPU, PER_TENSOR, ""),
        (INT8, (16, 64, 64), GPU, PER_TENSOR, "m=16: torch._int_mm on a GPU needs m > 16"),
        (INT8, (1, 3, 5), CPU, PER_TOKEN, ""),
        (FP8, (1, 64, 64), GPU, PER_TOKEN, ""),
        (FP8, (1, 64, 72), GPU, PER_TOKEN, "k=72 is not a multiple of 16"),
        (FP8, (1, 64, 64), replace(GPU, capability=(8, 0)), PER_TENSOR, "fp8 needs compute capability 8.9"),
        (FP8, (1, 64, 64), CPU, PER_TENSOR, "FP8 on a CPU is emulated"),
        (FP8, (4, 128, 128), GPU, BLOCKWISE, "needs a kernel named *_blockwise"),
    ],
)
def test_limits_are_refused_with_the_value(name, sizes, device, scheme, says):
    m, n, k = sizes
    reason = inductor.kernel(name).supports(problem_of(name, scheme, GemmShape(m=m, n=n, k=k)), device).reason
    assert says in reason and bool(reason) == bool(says)


def test_it_does_not_quantize_and_says_so():
    problem = problem_of(INT8, PER_TOKEN, EVEN, Activations.DYNAMIC)
    assert "quantized already" in inductor.kernel(INT8).supports(problem, GPU).reason


def test_each_shape_scheme_and_name_is_a_build_of_its_own():
    shapes = [EVEN, GemmShape(m=21, n=256, k=384)]
    keys = {
        inductor.kernel(name).build_key(problem_of(name, scheme, shape), GPU)
        for name in NAMES
        for scheme in (PER_TENSOR, PER_TOKEN)
        for shape in shapes
    }
    assert len(keys) == len(NAMES) * 2 * len(shapes)
