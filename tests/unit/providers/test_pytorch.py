"""PyTorch's kernels: exactness of the int32 product, and refusals, which need no GPU."""

from __future__ import annotations

import gc
import random

import pytest
import torch
from copies import replace

from w8a8_bench.correctness.check import check, poison
from w8a8_bench.correctness.operand_factory import OperandFactory
from w8a8_bench.correctness.oracle import Oracle
from w8a8_bench.environment.device import Device
from w8a8_bench.problem import BLOCKWISE, PER_TENSOR, SCHEMES, Activations, GemmShape
from w8a8_bench.problem.formats import Format
from w8a8_bench.problem.kernel_name import KernelName
from w8a8_bench.providers import pytorch

H200 = Device(
    kind="cuda",
    index=0,
    name="NVIDIA H200",
    torch=(2, 11),
    memory_bytes=1 << 37,
    available_bytes=1 << 37,
    cuda=(13, 0),
    capability=(9, 0),
)
A100 = replace(H200, name="NVIDIA A100", capability=(8, 0))
CPU = Device(kind="cpu", index=0, name="CPU", torch=(2, 13), memory_bytes=1 << 34, available_bytes=1 << 34)


def shapes(count: int) -> list[tuple[int, int, int]]:
    draw = random.Random(8)
    edges = [(1, 1, 1), (1, 7, 1), (5, 1, 1), (5, 7, 1), (1, 64, 33), (3, 5, 7), (17, 1, 64)]
    return edges + [
        (draw.randint(1, 70), draw.randint(1, 90), draw.choice([1, draw.randint(1, 300)]))
        for _ in range(count - len(edges))
    ]


def test_int8_products_on_a_cpu_are_exact_before_scaling():
    generator = torch.Generator().manual_seed(0)
    for m, n, k in shapes(200):
        a = torch.randint(-128, 128, (m, k), dtype=torch.int8, generator=generator)
        b = torch.randint(-128, 128, (n, k), dtype=torch.int8, generator=generator).t()
        out = torch.full((m, n), -1, dtype=torch.int32)
        pytorch.int_mm(a, pytorch.int_mm_weight(b), out)
        assert torch.equal(out.long(), a.long() @ b.long()), f"m={m} n={n} k={k}"


def answer(name: str, shape: GemmShape, device: Device, scheme=PER_TENSOR) -> str:
    """The reason of a refusal; empty for a yes."""
    problem = KernelName.parse(name).problem(shape, Format.FP8, scheme)
    return pytorch.kernel(name).supports(problem, device).reason


@pytest.mark.parametrize(
    ("name", "sizes", "device", "scheme", "says"),
    [
        ("pytorch_i8_i8_bf16_scaled_mm", (16, 64, 64), H200, PER_TENSOR, "m=16"),
        ("pytorch_i8_i8_bf16_scaled_mm", (17, 65, 64), H200, PER_TENSOR, "n=65"),
        ("pytorch_i8_i8_bf16_scaled_mm", (17, 64, 65), H200, PER_TENSOR, "k=65"),
        ("pytorch_i8_i8_bf16_scaled_mm", (17, 64, 64), H200, PER_TENSOR, ""),
        ("pytorch_i8_i8_bf16_scaled_mm", (1, 65, 65), CPU, PER_TENSOR, ""),
        ("pytorch_i8_i8_bf16_scaled_mm", (17, 64, 64), CPU, BLOCKWISE, "block-w-group-a"),
        ("pytorch_fp8_fp8_bf16_scaled_mm", (1, 64, 64), A100, PER_TENSOR, "8.0"),
        ("pytorch_fp8_fp8_bf16_scaled_mm", (1, 72, 64), H200, PER_TENSOR, "n=72"),
        ("pytorch_fp8_fp8_bf16_scaled_mm", (1, 64, 72), H200, PER_TENSOR, "k=72"),
        ("pytorch_fp8_fp8_bf16_scaled_mm", (1, 64, 64), H200, BLOCKWISE, "*_blockwise"),
        ("pytorch_fp8_fp8_bf16_scaled_mm_blockwise", (4, 64, 64), H200, BLOCKWISE, ""),
        ("pytorch_fp8_fp8_bf16_scaled_mm_blockwise", (6, 64, 64), H200, BLOCKWISE, "m=6"),
        ("pytorch_fp8_fp8_bf16_scaled_mm_blockwise", (4, 64, 64), CPU, BLOCKWISE, "CPU"),
        ("pytorch_fp8_fp8_bf16_scaled_mm_blockwise", (4, 64, 64), replace(H200, cuda=(12, 8)), BLOCKWISE, "12.9"),
        ("pytorch_fp8_fp8_bf16_scaled_mm_blockwise", (4, 64, 64), H200, PER_TENSOR, "tensor-w-tensor-a"),
    ],
)
def test_limits_are_refused_with_the_value_in_the_reason(name, sizes, device, scheme, says):
    m, n, k = sizes
    reason = answer(name, GemmShape(m=m, n=n, k=k), device, scheme)
    assert says in reason
    assert bool(reason) is bool(says)


FP8_NAMES = [f"pytorch_fp8_fp8_{out}_scaled_mm{variant}" for out in ("fp16", "bf16") for variant in ("", "_fast_accum")]
SMALL = GemmShape(m=19, n=37, k=70)


def problem_of(name: str, scheme=PER_TENSOR, activations=Activations.PREQUANTIZED):
    return KernelName.parse(name).problem(SMALL, Format.FP8, scheme, activations)


@pytest.mark.parametrize("scheme", [scheme for scheme in SCHEMES if not scheme.is_blockwise], ids=str)
@pytest.mark.parametrize("name", FP8_NAMES)
def test_fp8_is_emulated_on_a_cpu_in_every_scheme_and_follows_a_new_a(name, scheme):
    factory = OperandFactory(SMALL, "cpu", data="normal", seed=5)
    for activations in Activations:
        problem = problem_of(name, scheme, activations)
        if problem.why_illegal():
            continue
        operands = factory.make(problem, guarded=True)
        prepared = pytorch.kernel(name).prepare(problem, CPU)
        launches = prepared.bind(operands.given())
        for _ in range(2):
            poison(operands.out)
            launches.total()
            verdict = check(operands, Oracle())
            assert verdict.ok, verdict.reason
            operands.a.view(torch.uint8 if operands.a.element_size() == 1 else torch.int16).copy_(
                operands.a.view(torch.uint8 if operands.a.element_size() == 1 else torch.int16).flip(0).clone()
            )
        factory.forget()
    assert prepared.config == {
        "scaling": "per tensor" if scheme == PER_TENSOR else "row-wise",
        "emulated": "operands upcast, multiplied in fp32",
    }


def test_fp8_on_a_gpu_is_not_emulated():
    name = "pytorch_fp8_fp8_bf16_scaled_mm_fast_accum"
    assert pytorch.kernel(name).prepare(problem_of(name), H200).config == {
        "scaling": "per tensor",
        "use_fast_accum": True,
    }


def test_kernels_that_read_the_same_weights_share_them_upcast_and_let_go_of_them():
    factory = OperandFactory(SMALL, "cpu", data="normal", seed=5)
    alive = pytorch.UpcastWeights._alive
    gc.collect()
    before = len(alive)
    kernels = [pytorch.kernel(name).prepare(problem_of(name), CPU) for name in FP8_NAMES]
    for kernel, name in zip(kernels, FP8_NAMES, strict=True):
        kernel.bind(factory.make(problem_of(name)).given())
    assert len(alive) == before + 1
    other = pytorch.kernel(FP8_NAMES[0]).prepare(problem_of(FP8_NAMES[0]), CPU)
    for seed in (6, 7):  # the second takes the place of the first
        other.bind(OperandFactory(SMALL, "cpu", data="normal", seed=seed).make(problem_of(FP8_NAMES[0])))
        gc.collect()
        assert len(alive) == before + 2
    del kernels, kernel, other
    gc.collect()
    assert len(alive) == before


def test_weights_that_were_written_to_are_upcast_anew():
    problem = problem_of(FP8_NAMES[0])
    kernel = pytorch.kernel(FP8_NAMES[0]).prepare(problem, CPU)
    operands = OperandFactory(SMALL, "cpu", data="normal", seed=5).make(problem, guarded=True)
    before = kernel.bind(operands.given())
    operands.b.view(torch.uint8).zero_()
    kernel.bind(operands.given()).total()
    assert not operands.out.any()
    before.total()
    assert operands.out.any(), "what was bound before keeps its own"


def test_every_name_of_the_provider_is_made_and_parses():
    for name in ("pytorch_bf16_bf16_bf16_matmul-no-scales", "pytorch_bf16_bf16_bf16_matmul-no-scales_cast"):
        assert answer(name, GemmShape(m=1, n=1, k=1), CPU) == ""
