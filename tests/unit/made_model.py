"""A model of two layers and times of them that can be summed on paper, which several tests share."""

from __future__ import annotations

import pytest
from copies import replace
from made_results import HEADER, end, in_file, record

from w8a8_bench.problem import GemmShape, Scaling
from w8a8_bench.problem.kernel_name import BASELINE
from w8a8_bench.report.recommend.choices import ModelLayer, Requirements
from w8a8_bench.report.recommend.recommend import recommend
from w8a8_bench.results.json_lines import Results
from w8a8_bench.results.record import Record

FP8 = "pytorch_fp8_fp8_bf16_scaled_mm"
ROW_WISE = Scaling.parse("channel-w-token-a")
ONE = ModelLayer("one", k=64, n=128, count=2)
TWO = ModelLayer("two", k=128, n=64, count=3)


def cell(layer: ModelLayer, m: int, kernel: str, micros: float, scaling: Scaling | None = None, **changes) -> Record:
    """Twelve equal samples, so that every interval has no width."""
    index = 100 * m + layer.k  # one comparison a shape
    spread = changes.pop("spread", 0.0)
    samples = [micros / 1e6 * (1 + spread * (2 * step / 11 - 1)) for step in range(12)]
    made = record(kernel, *samples, comparison=index, shape=GemmShape(m=m, n=layer.n, k=layer.k), **changes)
    return replace(made, problem=replace(made.problem, scheme=scaling.name)) if scaling else made


PAPER = [
    # m = 16: bf16 2 x 10 + 3 x 20 = 80, per tensor 2 x 5 + 3 x 16 = 58, row-wise 2 x 4 + 3 x 18 = 62 us.
    cell(ONE, 16, BASELINE, 10),
    cell(ONE, 16, FP8, 5),
    cell(ONE, 16, FP8, 4, ROW_WISE),
    cell(TWO, 16, BASELINE, 20),
    cell(TWO, 16, FP8, 16),
    cell(TWO, 16, FP8, 18, ROW_WISE),
    # m = 32: bf16 2 x 12 + 3 x 24 = 96, per tensor 2 x 6 + 3 x 24 = 84, row-wise 2 x 5.97 + 3 x 12 = 47.94 us.
    cell(ONE, 32, BASELINE, 12),
    cell(ONE, 32, FP8, 6),
    cell(ONE, 32, FP8, 5.97, ROW_WISE),
    cell(TWO, 32, BASELINE, 24),
    cell(TWO, 32, FP8, 24),
    cell(TWO, 32, FP8, 12, ROW_WISE),
]

ANY = Requirements()


def source(*records: Record, name: str = "a.jsonl", **header: object) -> Results:
    comparisons: dict[int, list[Record]] = {}
    for one in records:
        comparisons.setdefault(one.comparison, []).append(one)
    header = {"settings": {"data": "normal", "duty": 0.5}, **header}
    ordered = [record for own in comparisons.values() for record in own]
    return in_file(ordered, [end(own) for own in comparisons.values()], replace(HEADER, **header), path=name)


def advise(*records: Record, layers=(ONE, TWO), required=ANY, sources=(), providers=()):
    return recommend("mine", 1, layers, sources or [source(*records)], required, providers=providers)


def refusal(*records: Record, **changes) -> str:
    with pytest.raises(ValueError) as caught:
        advise(*records, **changes)
    (line,) = str(caught.value).splitlines()
    return line
