"""Every registered kernel, on the GPU of this machine, against the oracle."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from w8a8_bench.bench.comparison_run import run_comparison  # noqa: E402
from w8a8_bench.environment import detect  # noqa: E402
from w8a8_bench.kernel import Status  # noqa: E402
from w8a8_bench.problem import SCHEMES, Activations, GemmShape  # noqa: E402
from w8a8_bench.problem.comparison import Cell, Comparison, LabelledShape  # noqa: E402
from w8a8_bench.problem.distribution import Distribution  # noqa: E402
from w8a8_bench.problem.formats import W8A8_FORMATS, Format  # noqa: E402
from w8a8_bench.problem.kernel_name import KernelName  # noqa: E402
from w8a8_bench.providers import registry  # noqa: E402
from w8a8_bench.timing.settings import Settings, StopRule  # noqa: E402

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no GPU that torch can use"),
]

SHAPES = ((1, 64, 64), (16, 4096, 4096), (17, 48, 32), (20, 2112, 640), (128, 512, 512), (300, 272, 11008))
ONCE = Settings(data=Distribution.OUTLIERS, stop=StopRule(min_blocks=1, max_blocks=1))


def cells(name: str, shape: GemmShape) -> list[Cell]:
    """The kernel under every scheme and kind of activations that has a meaning."""
    parsed = KernelName.parse(name)
    schemes = (None,) if parsed.is_baseline else SCHEMES
    problems = [
        parsed.problem(shape, fmt, scheme, activations)
        for fmt in W8A8_FORMATS
        if parsed.serves(fmt)
        for scheme in schemes
        for activations in Activations
    ]
    return [Cell(name, problem) for problem in dict.fromkeys(problems) if problem.why_illegal() is None]


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "x".join(map(str, shape)))
@pytest.mark.parametrize("name", registry.names(tuple(Format), on_request=True))
def test_the_answer_is_right_or_refused_with_a_reason(name, shape):
    m, n, k = shape
    where = LabelledShape(GemmShape(m=m, n=n, k=k))
    comparison = Comparison(0, where, tuple(cells(name, where.shape)))
    records, _ = run_comparison(comparison, detect.resolve_device("cuda"), ONCE)
    for record in records:
        assert record.status in (Status.OK, Status.UNSUPPORTED), f"{record.problem}: {record.status} {record.reason}"
        assert record.status is Status.OK or record.reason
