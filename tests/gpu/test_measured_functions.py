"""`w8a8_bench.measure` on the GPU of this machine: functions whose outputs live in the memory of CUDA graphs."""

from __future__ import annotations

from functools import partial

import pytest

torch = pytest.importorskip("torch")

import w8a8_bench  # noqa: E402
from w8a8_bench.bench.comparison_run import run_comparison  # noqa: E402
from w8a8_bench.environment import detect  # noqa: E402
from w8a8_bench.kernel import Status  # noqa: E402
from w8a8_bench.problem import GemmShape, Problem, Scaling  # noqa: E402
from w8a8_bench.problem.comparison import Cell, Comparison, LabelledShape  # noqa: E402
from w8a8_bench.problem.kernel_name import BASELINE, KernelName  # noqa: E402
from w8a8_bench.providers import registry  # noqa: E402
from w8a8_bench.providers.function import make_kernel  # noqa: E402
from w8a8_bench.timing.measures import HOST_LAUNCH, TIME_COLD, TIME_EVENT, TIME_HOST, TIME_HOT, TIME_KERNEL, Timer  # noqa: E402
from w8a8_bench.timing.settings import Settings, StopRule  # noqa: E402

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no GPU that torch can use"),
]

SCHEME = "channel-w-token-a"
SHAPE = GemmShape(m=128, n=4096, k=4096)
PYTORCH, CUTLASS = "pytorch_fp8_fp8_bf16_scaled_mm", "cutlass_fp8_fp8_bf16_scaled_mm"

measure = partial(w8a8_bench.measure, dtype="fp8", m=SHAPE.m, n=SHAPE.n, k=SHAPE.k, scheme=SCHEME, device="cuda")


@pytest.fixture(scope="module", autouse=True)
def device():
    found = detect.resolve_device("cuda")
    if found.capability is None or found.capability < (9, 0):
        pytest.skip(f"{found.name} has no row-wise FP8")
    return found


def scaled_mm(a, b, scale_a, scale_b):
    return torch._scaled_mm(a, b, scale_a, scale_b, out_dtype=torch.bfloat16)


def test_a_function_that_returns_its_output_stands_beside_pytorch_and_cutlass():
    result = measure(scaled_mm, against=["pytorch", "cutlass"])
    assert (result.status, result.reason) == (Status.OK, "")
    assert result.record.config == {"output": "returned"}
    assert result.record.rotation["sets"] >= 2
    assert {record.kernel for record in result.records} >= {BASELINE, PYTORCH, CUTLASS}
    assert {record.status for record in result.records} <= {Status.OK, Status.UNSUPPORTED}
    assert result.seconds > 0 and result.speedup > 0.7, "row-wise FP8 of PyTorch 2.11 is as slow as bf16 here"
    assert 0.7 < result.ratio(PYTORCH).median < 1.4, "the same operation of the same library"
    assert "time_cold_l2" in str(result)
    (cutlass,) = (record for record in result.records if record.kernel == CUTLASS)
    if cutlass.status is Status.UNSUPPORTED:
        pytest.skip(cutlass.reason)
    assert result.ratio(CUTLASS).interval is not None


@pytest.mark.parametrize(
    ("timer", "measures"),
    [
        (Timer.GRAPH, (TIME_COLD,)),
        (Timer.GRAPH, (TIME_HOT,)),
        (Timer.GRAPH, (TIME_COLD, TIME_HOT, HOST_LAUNCH)),
        (Timer.EVENT, (TIME_EVENT, HOST_LAUNCH)),
        (Timer.HOST, (TIME_HOST, HOST_LAUNCH)),
        (Timer.GRAPH, (TIME_KERNEL,)),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else value.value,
)
@pytest.mark.parametrize("shape", [SHAPE, GemmShape(m=32, n=256, k=256)], ids=str)
def test_returned_outputs_are_right_after_every_way_of_timing(timer, measures, shape, device):
    """Each seed judges another set of the rotation."""
    name = KernelName.parse(PYTORCH)
    problem: Problem = name.problem(shape, name.format, Scaling.parse(SCHEME))
    kernel = make_kernel(scaled_mm, problem)
    comparison = Comparison(0, LabelledShape(shape), (Cell(kernel.name, problem), Cell(PYTORCH, problem)))
    for seed in range(3):
        settings = Settings(seed=seed, stop=StopRule(2, 2), timer=timer, measures=measures)
        records, _ = run_comparison(
            comparison, device, settings, kernels={kernel.name: kernel, PYTORCH: registry.get(PYTORCH)}.__getitem__
        )
        for record in records:
            assert (record.status, record.reason) == (Status.OK, "")
            assert set(record.samples) == set(measures)


def test_a_function_that_returns_its_first_answer_again_is_incorrect():
    answers = []

    def cached(a, b, scale_a, scale_b):
        if not answers:
            answers.append(scaled_mm(a, b, scale_a, scale_b))
        return answers[0]

    assert measure(cached).status is Status.INCORRECT


def test_a_function_that_returns_one_buffer_for_all_sets_is_incorrect():
    buffer = torch.empty(SHAPE.m, SHAPE.n, dtype=torch.bfloat16, device="cuda")
    result = measure(lambda a, b, scale_a, scale_b: buffer.copy_(scaled_mm(a, b, scale_a, scale_b)))
    assert result.status is Status.INCORRECT
    assert "the same memory for several operand sets" in result.reason


def test_a_function_that_waits_for_the_gpu_is_timed_by_events():
    def waits(a, b, scale_a, scale_b):
        d = scaled_mm(a, b, scale_a, scale_b)
        d[0, 0].item()
        return d

    refused = measure(waits)
    assert refused.status is Status.UNCAPTURABLE
    assert measure(waits, timer="event").status is Status.OK
