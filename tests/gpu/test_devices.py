"""Another GPU than the current one: every kernel is right there, and so are the functions of the kernels."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from w8a8_bench.bench.comparison_run import run_comparison  # noqa: E402
from w8a8_bench.correctness.check import check, poison  # noqa: E402
from w8a8_bench.correctness.operand_factory import OperandFactory  # noqa: E402
from w8a8_bench.correctness.oracle import Oracle  # noqa: E402
from w8a8_bench.environment import detect  # noqa: E402
from w8a8_bench.kernel import Status  # noqa: E402
from w8a8_bench.problem import GemmShape  # noqa: E402
from w8a8_bench.problem.comparison import Cell, Comparison, LabelledShape  # noqa: E402
from w8a8_bench.problem.distribution import Distribution  # noqa: E402
from w8a8_bench.problem.formats import W8A8_FORMATS, Format  # noqa: E402
from w8a8_bench.problem.kernel_name import KernelName  # noqa: E402
from w8a8_bench.providers import registry  # noqa: E402
from w8a8_bench.timing.measures import TIME_COLD, Timer  # noqa: E402
from w8a8_bench.timing.settings import Settings, StopRule  # noqa: E402

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs"),
]

SHAPE = GemmShape(m=16, n=1024, k=512)
ONCE = Settings(stop=StopRule(min_blocks=2, max_blocks=2), timer=Timer.GRAPH, measures=(TIME_COLD,))


def test_every_kernel_is_checked_and_timed_on_the_gpu_that_is_asked_for():
    cells = [
        Cell(name, parsed.problem(SHAPE, fmt, parsed.default_scheme))
        for name in registry.names(tuple(Format))
        for parsed in [KernelName.parse(name)]
        for fmt in W8A8_FORMATS
        if parsed.serves(fmt)
    ]
    comparison = Comparison(0, LabelledShape(SHAPE), tuple(dict.fromkeys(cells)))
    records, _ = run_comparison(comparison, detect.resolve_device("cuda:1"), ONCE)
    for record in records:
        assert record.status in (Status.OK, Status.UNSUPPORTED), f"{record.kernel}: {record.status} {record.reason}"
    assert sum(record.status is Status.OK for record in records) > len(records) / 2
    assert torch.cuda.current_device() == 0


@pytest.mark.parametrize("library", ["cutlass", "triton"])
@pytest.mark.parametrize("current", [0, 1])
@pytest.mark.parametrize("device", ["cuda:1", "cuda:0"])
def test_the_kernels_functions_run_where_their_operands_are(library, current, device):
    kernels = pytest.importorskip(f"w8a8_bench.kernels.{library}")
    factory = OperandFactory(SHAPE, device, data=Distribution.NORMAL.value, seed=3)
    for name, function in (
        (f"{library}_i8_i8_bf16_scaled_mm", kernels.scaled_mm),
        (f"{library}_fp8_fp8_bf16_scaled_mm", kernels.scaled_mm),
        (f"{library}_fp8_fp8_bf16_scaled_mm_blockwise", kernels.blockwise_mm),
    ):
        parsed = KernelName.parse(name)
        operands = factory.make(parsed.problem(SHAPE, parsed.format, parsed.default_scheme))
        poison(operands.out)
        torch.cuda.synchronize(device)
        with torch.cuda.device(current):
            function(operands.a, operands.b, operands.scale_a, operands.scale_b, torch.bfloat16, out=operands.out)
        verdict = check(operands, Oracle(), fast_accum=not parsed.is_blockwise)
        assert verdict.ok, f"{name}: {verdict.reason}"
