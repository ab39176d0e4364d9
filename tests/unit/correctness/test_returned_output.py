"""Launches that return D instead of writing `out`: judged like all others, and validated before that."""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import SimpleNamespace

import pytest
import torch

from w8a8_bench.bench.comparison_run import run_comparison
from w8a8_bench.correctness.returned_output import WrongOutput, take_output
from w8a8_bench.environment import detect
from w8a8_bench.kernel import Launches, Status
from w8a8_bench.problem import PER_TENSOR, GemmShape
from w8a8_bench.problem.comparison import Cell, Comparison, LabelledShape
from w8a8_bench.problem.formats import Format
from w8a8_bench.problem.kernel_name import KernelName
from w8a8_bench.providers import registry
from w8a8_bench.results.record import Record
from w8a8_bench.timing.cuda_graph import Turns
from w8a8_bench.timing.settings import Settings, StopRule

KERNEL, OTHER = "pytorch_i8_i8_bf16_scaled_mm", "pytorch_i8_i8_bf16_scaled_mm_bias"
SHAPE = GemmShape(m=17, n=48, k=40)
CPU = detect.resolve_device("cpu")
QUICK = Settings(stop=StopRule(min_blocks=2, max_blocks=2))
AFTER_TIMING = "after timing, on another A: "


@dataclass
class Allocating:
    """A kernel whose library allocates D. A launch returns what `give` makes of D, the operands, and its number."""

    give: Callable[[torch.Tensor, object, int], object]
    name: str = KERNEL

    def supports(self, problem, device):
        return registry.get(KERNEL).supports(problem, device)

    def prepare(self, problem, device):
        inner, numbers = registry.get(KERNEL).prepare(problem, device), itertools.count(1)

        def bind(operands):
            d = torch.empty_like(operands.out)
            compute = inner.bind(replace(operands, out=d)).total

            def launch():
                compute()
                return self.give(d.clone(), operands, next(numbers))

            return Launches(launch)

        return SimpleNamespace(config={"tile": "16x16"}, bind=bind)


def run(give: Callable[[torch.Tensor, object, int], object]) -> Record:
    """What became of a kernel that returns what `give` says, beside one that writes `out`."""
    cells = [Cell(name, KernelName.parse(name).problem(SHAPE, Format.INT8, PER_TENSOR)) for name in (KERNEL, OTHER)]
    kernels = {KERNEL: Allocating(give), OTHER: registry.get(OTHER)}
    comparison = Comparison(0, LabelledShape(SHAPE), tuple(cells))
    (record, other), _ = run_comparison(comparison, CPU, QUICK, kernels=kernels.__getitem__)
    assert (other.status, "output" in other.config) == (Status.OK, False)
    return record


def written(d: torch.Tensor, operands: object) -> None:
    operands.out.copy_(d)


@pytest.mark.parametrize(
    "give",
    [
        lambda d, operands, number: d,
        lambda d, operands, number: d.t().contiguous().t(),
        lambda d, operands, number: torch.cat([d, d])[SHAPE.m :],
        lambda d, operands, number: d.requires_grad_(),
        lambda d, operands, number: torch.nn.Parameter(d),
    ],
    ids=["new", "column-major", "view", "requires grad", "parameter"],
)
def test_a_returned_output_is_judged_and_the_record_says_so(give):
    record = run(give)
    assert (record.status, record.reason) == (Status.OK, "")
    assert record.config == {"tile": "16x16", "output": "returned"}
    assert len(record.samples["time_host"]) == 2


def test_a_launch_that_writes_its_output_and_returns_it_is_like_one_that_only_writes():
    record = run(lambda d, operands, number: operands.out.copy_(d))
    assert (record.status, record.config) == (Status.OK, {"tile": "16x16"})


def test_a_wrong_element_of_a_returned_output_is_incorrect():
    record = run(lambda d, operands, number: d.index_put_((torch.tensor(3), torch.tensor(5)), torch.tensor(9e3).to(d)))
    assert record.status is Status.INCORRECT
    assert "row 3, column 5" in record.reason
    assert record.samples == {}


@pytest.mark.parametrize(
    ("give", "got"),
    [
        (lambda d: d.float(), "float32 [17,48] on cpu"),
        (lambda d: d.half(), "float16 [17,48] on cpu"),
        (lambda d: d.t(), "bfloat16 [48,17] on cpu"),
        (lambda d: d[:, :-1], "bfloat16 [17,47] on cpu"),
        (lambda d: d[None], "bfloat16 [1,17,48] on cpu"),
        (lambda d: d.sum(), "bfloat16 [] on cpu"),
        (lambda d: d.to("meta"), "bfloat16 [17,48] on meta"),
    ],
)
@pytest.mark.parametrize("since", [1, 2])
def test_a_returned_tensor_that_can_not_be_the_output_is_incorrect(give, got, since):
    record = run(lambda d, operands, number: give(d) if number >= since else d)
    assert record.status is Status.INCORRECT
    assert record.reason == f"returned {got}: expected bfloat16 [17,48] on cpu"
    assert record.samples == {}


def test_a_function_that_returns_its_first_answer_again_is_found():
    first: list[torch.Tensor] = []
    record = run(lambda d, operands, number: first.append(d) or first[0])
    assert record.status is Status.INCORRECT
    assert record.reason.startswith(AFTER_TIMING)


def test_an_answer_that_is_kept_for_each_operand_set_is_found():
    """Its A is another by the time that it is checked again."""
    kept: dict[int, torch.Tensor] = {}
    record = run(lambda d, operands, number: kept.setdefault(operands.a.data_ptr(), d))
    assert record.status is Status.INCORRECT
    assert record.reason.startswith(AFTER_TIMING)


@pytest.mark.parametrize("returns_first", [True, False])
def test_a_kernel_that_returns_once_and_writes_at_other_times_is_judged_by_what_it_did(returns_first):
    record = run(lambda d, operands, number: d if (number == 1) is returns_first else written(d, operands))
    assert (record.status, record.reason) == (Status.OK, "")


@pytest.mark.parametrize("since", [1, 2])
@pytest.mark.parametrize("nothing", [lambda d: None, lambda d: (d,), lambda d: d.tolist()])
def test_what_is_no_tensor_is_no_output(nothing, since):
    record = run(lambda d, operands, number: nothing(d) if number >= since else d)
    assert record.status is Status.INCORRECT
    assert "NaN" in record.reason
    assert record.reason.startswith(AFTER_TIMING) is (since == 2)


def test_outputs_of_several_sets_in_one_memory_are_refused():
    out, buffer = torch.zeros(3, 4), torch.ones(3, 4)
    with pytest.raises(WrongOutput, match="the same memory for several operand sets"):
        take_output([buffer, None, buffer.view(3, 4)], 0, out)
    assert not out.any()
    assert take_output([buffer, None, torch.ones(3, 4)], 0, out) == {"output": "returned"}
    assert out.all()


def test_a_graph_holds_one_output_for_each_launch_and_frees_it_before_the_next_one():
    made: list[weakref.ref] = []

    def alive() -> list[int]:
        return [number for number, one in enumerate(made) if one() is not None]

    def launch() -> torch.Tensor:
        assert len(alive()) < 3, "the output that this launch returned before is still held"
        one = torch.tensor(len(made))
        made.append(weakref.ref(one))
        return one

    turns = Turns([launch] * 3)
    for number in range(8):
        turns.launch(number)
    assert [int(one) for one in turns.outputs] == [6, 7, 5]
    assert alive() == [5, 6, 7]
