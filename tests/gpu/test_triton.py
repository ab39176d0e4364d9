"""Triton's kernels on a GPU: hundreds of shapes, every way to cut, the same bits each time, graphs, quantization."""

from __future__ import annotations

import importlib.util
import math
import random

import pytest

torch = pytest.importorskip("torch")

from w8a8_bench.correctness import quantize as reference  # noqa: E402
from w8a8_bench.correctness.check import check, poison  # noqa: E402
from w8a8_bench.correctness.operand_factory import OperandFactory  # noqa: E402
from w8a8_bench.correctness.oracle import Oracle  # noqa: E402
from w8a8_bench.environment import detect  # noqa: E402
from w8a8_bench.problem import SCHEMES, Activations, ActScale, Azp, GemmShape, Problem  # noqa: E402
from w8a8_bench.problem.formats import OUT_FORMATS, Format  # noqa: E402

if importlib.util.find_spec("triton") is not None:
    from w8a8_bench.kernels.triton import TritonConfig, apply_static, quantize
    from w8a8_bench.kernels.triton.configs import ChosenConfig, choose, legal, why_unsupported
    from w8a8_bench.kernels.triton.prepare import gemm_of, prepare_as

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no GPU that torch can use"),
    pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed"),
]

CHUNKS, CHUNK = 8, 50


@pytest.fixture(scope="module")
def device():
    return detect.resolve_device("cuda")


def made_shapes() -> list[GemmShape]:
    """300 with n and k multiples of 16, and 100 with neither."""
    draw = random.Random(20260)

    def size(most: int) -> int:
        return round(math.exp(draw.uniform(0.0, math.log(most))))

    shapes = [GemmShape(m=size(700), n=16 * size(300), k=16 * size(500)) for _ in range(300)]
    while len(shapes) < CHUNKS * CHUNK:
        n, k = size(3000), size(6000)
        if n % 16 and k % 16:
            shapes.append(GemmShape(m=size(700), n=n, k=k))
    draw.shuffle(shapes)
    return shapes


def made_problem(shape: GemmShape, draw: random.Random) -> Problem:
    """Any that has a meaning."""
    while True:
        problem = Problem.of(
            shape=shape,
            format=draw.choice((Format.INT8, Format.FP8)),
            out=draw.choice(OUT_FORMATS),
            scaling=draw.choice(SCHEMES),
            azp=draw.choice(list(Azp)),
            bias=draw.random() < 0.5,
            activations=draw.choice(list(Activations)),
        )
        if problem.why_illegal() is None:
            return problem


def judge(problem: Problem, device, config: TritonConfig | None = None) -> None:
    """With a configuration that is given, or chosen without measuring."""
    if why_unsupported(problem.format, device.capability):
        return
    gemm = gemm_of(problem, device)
    choice = choose(gemm, device.name) if config is None else ChosenConfig(config, "test")
    factory = OperandFactory(problem.shape, device.torch_name, data="outliers", seed=3, edge_cases=True)
    operands = factory.make(problem, guarded=True)
    prepare_as(choice, gemm, device).bind(operands).total()
    verdict = check(operands, Oracle(), fast_accum=not gemm.blockwise)
    assert verdict.ok, f"{problem} {choice}: {verdict.reason}"


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_seeded_shapes_are_right(device, chunk):
    draw = random.Random(chunk)
    for shape in made_shapes()[chunk * CHUNK : (chunk + 1) * CHUNK]:
        judge(made_problem(shape, draw), device)


WAYS = {
    "small": {"tile_m": 64, "tile_n": 128, "tile_k": 128},
    "rows of 16": {"tile_m": 16, "tile_n": 64, "tile_k": 128},
    "deep": {"tile_m": 64, "tile_n": 64, "tile_k": 128, "stages": 8},
    "8 warps": {"tile_m": 128, "tile_n": 128, "tile_k": 128, "warps": 8},
    "split": {"tile_m": 64, "tile_n": 128, "tile_k": 128, "split_k": 4},
    "swapped": {"tile_m": 16, "tile_n": 64, "tile_k": 128, "swap": True},
    "swapped and split": {"tile_m": 32, "tile_n": 128, "tile_k": 128, "swap": True, "split_k": 3},
    "persistent": {"tile_m": 64, "tile_n": 64, "tile_k": 128, "persistent": True},
    "persistent and swapped": {"tile_m": 32, "tile_n": 64, "tile_k": 128, "persistent": True, "swap": True},
}
KINDS = [(Format.INT8, SCHEMES[3], Azp.TOKEN), (Format.FP8, SCHEMES[3], Azp.NONE), (Format.FP8, SCHEMES[4], Azp.NONE)]


@pytest.mark.parametrize("descriptors", [False, True], ids=["pointers", "descriptors"])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("fmt", "scaling", "azp"), KINDS)
def test_every_way_to_cut_is_right(device, fmt, scaling, azp, way, descriptors):
    config = TritonConfig(**WAYS[way], descriptors=descriptors)
    for shape in (GemmShape(m=300, n=2112, k=1040), GemmShape(m=7, n=1000, k=4096)):
        problem = Problem.of(shape=shape, format=fmt, out=Format.BF16, scaling=scaling, azp=azp)
        if not why_unsupported(fmt, device.capability) and legal(config, gemm_of(problem, device)):
            judge(problem, device, config)


@pytest.mark.parametrize("way", ["split", "swapped and split"])
@pytest.mark.parametrize(("fmt", "scaling", "azp"), KINDS)
def test_splits_add_up_to_the_same_bits_every_time(device, fmt, scaling, azp, way):
    shape = GemmShape(m=30, n=4096, k=8192)
    problem = Problem.of(shape=shape, format=fmt, out=Format.BF16, scaling=scaling, azp=azp)
    if reason := why_unsupported(fmt, device.capability):
        pytest.skip(reason)
    operands = OperandFactory(shape, device.torch_name, data="normal", seed=4).make(problem)
    launches = prepare_as(ChosenConfig(TritonConfig(**WAYS[way]), "test"), gemm_of(problem, device), device).bind(
        operands
    )
    launches.total()
    first = operands.out.clone()
    assert check(operands, Oracle(), fast_accum=not scaling.is_blockwise).ok
    for _ in range(200):
        poison(operands.out)
        launches.total()
        assert torch.equal(operands.out, first)


@pytest.mark.parametrize("activations", [Activations.PREQUANTIZED, Activations.DYNAMIC], ids=lambda a: a.value)
@pytest.mark.parametrize(("fmt", "scaling", "azp"), KINDS)
def test_launches_are_captured_in_a_graph_and_allocate_nothing(device, fmt, scaling, azp, activations):
    shape = GemmShape(m=16, n=4096, k=4096)
    problem = Problem.of(shape=shape, format=fmt, out=Format.BF16, scaling=scaling, azp=azp, activations=activations)
    if reason := why_unsupported(fmt, device.capability):
        pytest.skip(reason)
    operands = OperandFactory(shape, device.torch_name, data="normal", seed=5).make(problem)
    gemm = gemm_of(problem, device)
    launches = prepare_as(choose(gemm, device.name), gemm, device).bind(operands)
    launches.total()
    torch.cuda.synchronize()
    before = torch.cuda.memory_stats()["allocation.all.allocated"]
    launches.total()
    assert torch.cuda.memory_stats()["allocation.all.allocated"] == before
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        launches.total()
    poison(operands.out)
    graph.replay()
    assert check(operands, Oracle(), fast_accum=not scaling.is_blockwise).ok


QUANTIZED = [
    *((fmt, activation, Azp.NONE) for fmt in (Format.INT8, Format.FP8) for activation in ActScale),
    (Format.INT8, ActScale.TOKEN, Azp.TOKEN),
]


@pytest.mark.parametrize("shape", [(1, 1), (17, 130), (16, 4096), (2048, 11008), (333, 7168), (3, 70000)])
@pytest.mark.parametrize(("fmt", "activation", "azp"), QUANTIZED)
def test_quantization_is_the_references_bit_for_bit(device, fmt, activation, azp, shape):
    if reason := why_unsupported(fmt, device.capability):
        pytest.skip(reason)
    for scale in (1e-38, 1e-4, 1.0, 300.0, 1e36):
        x = (torch.randn(shape, device=device.torch_name) * scale).to(torch.bfloat16)
        x[0] = 0.0
        got, expected = quantize(x, fmt, activation, azp), reference.quantize(x, fmt, activation, azp)
        assert torch.equal(got.q.view(torch.uint8), expected.q.view(torch.uint8))
        assert torch.equal(got.scale, expected.scale)
        assert expected.azp is None or torch.equal(got.azp, expected.azp)


@pytest.mark.parametrize("activation", list(ActScale), ids=lambda activation: activation.value)
def test_an_infinite_number_leaves_the_others_of_its_scale_zero(device, activation):
    if reason := why_unsupported(Format.FP8, device.capability):
        pytest.skip(reason)
    x = torch.randn(5, 700, device=device.torch_name).to(torch.bfloat16)
    x[2, 300] = -float("inf")
    x[4, 7] = float("inf")
    got, expected = quantize(x, Format.FP8, activation), reference.quantize(x, Format.FP8, activation, Azp.NONE)
    assert torch.equal(got.q.view(torch.uint8), expected.q.view(torch.uint8))
    assert torch.equal(got.scale, expected.scale)


@pytest.mark.parametrize("fmt", [Format.INT8, Format.FP8], ids=lambda fmt: fmt.value)
def test_every_bf16_number_is_quantized_as_the_reference_does(device, fmt):
    """With 200 scales, some of them too small or too large for a reciprocal."""
    if reason := why_unsupported(fmt, device.capability):
        pytest.skip(reason)
    patterns = torch.arange(-(2**15), 2**15, dtype=torch.int16, device=device.torch_name)
    x = patterns.view(torch.bfloat16)
    x = x[~x.isnan()].view(1, -1)
    generator = torch.Generator().manual_seed(9)
    mantissas = 1.0 + torch.rand(200, generator=generator)
    mantissas[:3] = torch.tensor([1.0, 2.0 - 2.0**-23, 1.0 + 2.0**-23])
    exponents = torch.randint(-20, 20, (200,), generator=generator)
    exponents[-12:] = torch.tensor([-140, -126, -120, -62, -61, -60, -59, 59, 60, 61, 100, 126])
    for scale in torch.ldexp(mantissas, exponents).tolist():
        s = torch.full((1, 1), scale, device=device.torch_name)
        got, expected = apply_static(x, s, None, fmt), reference.apply_static(x, s, None, fmt)
        assert torch.equal(got.view(torch.uint8), expected.view(torch.uint8)), scale


@pytest.mark.parametrize("fmt", [Format.INT8, Format.FP8], ids=lambda fmt: fmt.value)
def test_static_quantization_is_the_references_bit_for_bit(device, fmt):
    problem = Problem.of(
        shape=GemmShape(m=300, n=64, k=1030),
        format=fmt,
        out=Format.BF16,
        scaling=SCHEMES[0],
        azp=Azp.TENSOR if fmt is Format.INT8 else Azp.NONE,
        activations=Activations.STATIC,
    )
    if reason := why_unsupported(fmt, device.capability):
        pytest.skip(reason)
    operands = OperandFactory(problem.shape, device.torch_name, data="outliers", seed=6).make(problem)
    arguments = (operands.a, operands.scale_a, operands.azp, fmt)
    got, expected = apply_static(*arguments), reference.apply_static(*arguments)
    assert torch.equal(got.view(torch.uint8), expected.view(torch.uint8))
