"""One comparison: what becomes of kernels that refuse, raise, run out of memory or answer wrongly, and of good ones."""

from __future__ import annotations

import math
import signal
from collections.abc import Callable
from dataclasses import dataclass
from types import MappingProxyType, SimpleNamespace

import pytest
import torch
from copies import replace

from w8a8_bench.bench import cell_run, check_cells, comparison_run, time_cells
from w8a8_bench.bench.comparison_run import run_comparison
from w8a8_bench.correctness import oracle
from w8a8_bench.environment import detect
from w8a8_bench.kernel import CompileError, Launches, Refused, Status, Support
from w8a8_bench.problem import PER_TENSOR, SCHEMES, Activations, GemmShape, Scaling
from w8a8_bench.problem.comparison import Cell, Comparison, LabelledShape
from w8a8_bench.problem.distribution import Distribution
from w8a8_bench.problem.formats import W8A8_FORMATS, Format
from w8a8_bench.problem.kernel_name import KernelName
from w8a8_bench.providers import registry
from w8a8_bench.timing import blocks, host
from w8a8_bench.timing.settings import Settings, StopRule

GOOD = "pytorch_i8_i8_bf16_scaled_mm"
OTHER = "pytorch_i8_i8_bf16_scaled_mm_bias"
SHAPE = GemmShape(m=17, n=48, k=40)
CPU = detect.resolve_device("cpu")
QUICK = Settings(stop=StopRule(min_blocks=2, max_blocks=2))


@pytest.fixture(autouse=True)
def short_samples(monkeypatch):
    """Times are of no interest here."""
    monkeypatch.setattr(host, "SAMPLE_S", 1e-4)


def comparison(*names: str, shape: GemmShape = SHAPE) -> Comparison:
    cells = [Cell(name, KernelName.parse(name).problem(shape, Format.INT8, PER_TENSOR)) for name in names]
    return Comparison(0, LabelledShape(shape, {"layer": "x"}), tuple(cells))


@pytest.mark.parametrize(("available_bytes", "products"), [(1 << 30, 2), (0, 4)])
def test_equal_operands_share_a_product_if_there_is_room_to_keep_it_until_then(monkeypatch, available_bytes, products):
    multiplied = []
    original = oracle._multiply
    monkeypatch.setattr(oracle, "_multiply", lambda *given, **how: multiplied.append(1) or original(*given, **how))
    schemes = (PER_TENSOR, Scaling.parse("channel-w-token-a"))
    cells = [
        Cell(name, KernelName.parse(name).problem(SHAPE, Format.INT8, scheme))
        for name in (GOOD, OTHER)
        for scheme in schemes
    ]
    device = replace(CPU, available_bytes=available_bytes)
    records, _ = run_comparison(Comparison(0, LabelledShape(SHAPE, {}), tuple(cells)), device, QUICK)
    assert [record.status for record in records] == [Status.OK] * 4
    assert len(multiplied) == 2 * products  # before timing, and on another A after it


@dataclass
class Planted:
    """A good kernel with a fault: `spoil` gets the operands after each launch and how many there were."""

    name: str
    spoil: Callable[[object, int], None]

    def supports(self, problem, device):
        return registry.get(GOOD).supports(problem, device)

    def prepare(self, problem, device):
        inner, outer = registry.get(GOOD).prepare(problem, device), self

        class Prepared:
            @property
            def config(self):
                return {"tile": "16x16"}

            def bind(self, operands):
                good, calls = inner.bind(operands).total, [0]

                def launch():
                    good()
                    calls[0] += 1
                    outer.spoil(operands, calls[0])

                return Launches(launch)

        return Prepared()


def run_with(spoil: Callable[[object, int], None], settings: Settings = QUICK):
    """Records of a spoilt GOOD and an untouched OTHER."""
    kernels = {GOOD: Planted(GOOD, spoil), OTHER: registry.get(OTHER)}
    records, end = run_comparison(comparison(GOOD, OTHER), CPU, settings, kernels=kernels.__getitem__)
    assert records[1].status is Status.OK, "one cell's fault spoilt its neighbour"
    assert end.cells == 2
    return records[0]


def raise_(error: BaseException):
    raise error


CYCLE: list[object] = []
CYCLE.append(CYCLE)


class Mute:
    def __repr__(self):
        raise RuntimeError("no words")


class Typo:
    bind = print

    @property
    def config(self):
        return self.tiel


TRITON_ERROR = type("CompilationError", (type("TritonError", (Exception,), {"__module__": "triton.errors"}),), {})
"""As Triton's errors are, which is not installed everywhere."""


class MuteError(Exception):
    def __str__(self):
        raise RuntimeError("no words")


@pytest.mark.parametrize(
    ("answer", "status", "says"),
    [
        (lambda: raise_(KeyError("tile")), Status.FAILED, "KeyError: 'tile'"),
        (
            lambda: True,
            Status.FAILED,
            "supports() gave True: expected Support.yes() or Support.no(reason) (test_comparison_run.py, line ",
        ),
        (lambda: Support.no(""), Status.UNSUPPORTED, "no reason was given"),
        (lambda: Support.no(5), Status.FAILED, "the reason is 5: expected text"),
        (lambda: Support("", ""), Status.FAILED, "ok is '': expected True or False"),
    ],
)
def test_a_third_partys_answer_that_is_none_is_the_cells_own_fault(answer, status, says):
    class Answering(Planted):
        def supports(self, problem, device):
            return answer()

    kernels = {GOOD: Answering(GOOD, lambda operands, calls: None), OTHER: registry.get(OTHER)}
    (one, other), _ = run_comparison(comparison(GOOD, OTHER), CPU, QUICK, kernels=kernels.__getitem__)
    assert (one.status, other.status) == (status, Status.OK)
    assert says in one.reason


def test_a_kernel_is_not_asked_about_what_has_no_meaning():
    name = KernelName.parse("acme_i8_i8_bf16_scaled_mm_azp")
    shape = GemmShape(m=16, n=16, k=16)
    problem = name.problem(shape, Format.INT8, Scaling.parse("channel-w-token-a"))
    one = replace(comparison(GOOD), cells=(Cell(name.text, problem),))
    willing = Planted(name.text, lambda operands, calls: None)
    willing.supports = lambda problem, device: Support.yes()
    (record,), _ = run_comparison(one, CPU, QUICK, kernels=lambda name: willing)
    assert record.status is Status.UNSUPPORTED
    assert record.reason == problem.why_illegal()


@pytest.mark.parametrize(
    ("prepared", "says"),
    [
        (None, "prepare() gave None: expected an object with config and bind() (test_comparison_run.py, line "),
        (SimpleNamespace(bind=lambda operands: None), "has no attribute 'config'"),
        (SimpleNamespace, "expected an object with config and bind() (test_comparison_run.py, line "),
        (SimpleNamespace(config="128x128", bind=lambda operands: None), "config is '128x128': expected a mapping"),
        (SimpleNamespace(config={}, bind=lambda operands: None), "bind() gave None: expected Launches"),
        (
            SimpleNamespace(config={}, bind=lambda operands: Launches(None)),
            "total is None: expected",
        ),
        (
            SimpleNamespace(config={}, bind=lambda operands: Launches(lambda operands: None)),
            "missing 1 required positional argument: 'operands'",
        ),
        (SimpleNamespace(config={"tile": 10**5000}, bind=None), "expected an object with config and bind()"),
        (Typo(), "AttributeError: 'Typo' object has no attribute 'tiel'"),
        (
            SimpleNamespace(config={"tile": 10**5000}, bind=print),
            "config is <dict whose repr raises ValueError>",
        ),
        (
            SimpleNamespace(config={"tile": CYCLE}, bind=print),
            "config is {'tile': [[...]]}: expected what goes into JSON",
        ),
        (
            SimpleNamespace(config={"tile": math.nan}, bind=print),
            "config is {'tile': nan}: expected what goes into JSON",
        ),
        (SimpleNamespace(config={"tile": Mute()}, bind=print), "config is <dict whose repr raises"),
    ],
)
def test_what_is_no_prepared_kernel_is_the_cells_own_fault(prepared, says):
    class Preparing(Planted):
        def prepare(self, problem, device):
            return prepared

    kernels = {GOOD: Preparing(GOOD, lambda operands, calls: None), OTHER: registry.get(OTHER)}
    (one, other), _ = run_comparison(comparison(GOOD, OTHER), CPU, QUICK, kernels=kernels.__getitem__)
    assert (one.status, other.status) == (Status.FAILED, Status.OK)
    assert says in one.reason


@pytest.mark.parametrize("name", ["a", "b", "scale_a", "scale_b"])
def test_a_kernel_that_writes_to_its_inputs_is_incorrect_and_its_neighbours_get_others(name):
    record = run_with(lambda operands, calls: getattr(operands, name).copy_(getattr(operands, name).flip(0) * 2))
    assert (record.status, record.reason) == (Status.INCORRECT, f"wrote to what it is to read: {name}")


def test_a_kernel_that_raises_after_it_wrote_to_its_inputs_spoils_no_neighbour():
    record = run_with(lambda operands, calls: raise_(RuntimeError(operands.b.zero_().shape)))
    assert record.status is Status.FAILED


@pytest.mark.parametrize("name", ["a", "b", "scale_b"])
def test_a_kernel_that_writes_to_its_inputs_once_it_was_checked_is_found(name):
    """The check's launch is the first of its operands; of those that are timed, many follow."""
    record = run_with(lambda operands, calls: getattr(operands, name).zero_() if calls > 1 else None)
    assert record.status is Status.INCORRECT
    assert record.reason == f"wrote, before it was timed, to what it is to read: {name}"
    assert record.samples == {}


def test_a_kernel_that_writes_and_raises_once_it_was_checked_spoils_no_neighbour():
    record = run_with(lambda operands, calls: raise_(RuntimeError(operands.b.zero_().shape)) if calls > 1 else None)
    assert record.status is Status.FAILED


def test_a_kernel_that_writes_once_when_it_is_bound_again_is_found():
    """The check binds it, then the timing."""
    binds = []

    def spoil(operands, calls):
        if calls == 1:
            binds.append(operands.b[0, 0].add_(1) if len(binds) == 1 else None)

    names = (GOOD, OTHER)
    kernels = {GOOD: Planted(GOOD, spoil), OTHER: registry.get(OTHER)}
    records, _ = run_comparison(comparison(*names), CPU, QUICK, kernels=kernels.__getitem__)
    assert [record.status for record in records] == [Status.INCORRECT, Status.OK]
    assert records[0].reason == "wrote, before it was timed, to what it is to read: b"


@pytest.mark.parametrize("times", [1, 100])
def test_a_kernel_that_writes_while_it_is_timed_is_found_at_its_next_write_and_times_stand_on_what_was_made(times):
    wrote, armed = [], []

    def spoil(operands, calls):
        if armed and len(wrote) < times:
            wrote.append(operands.b.zero_())
        armed.clear()

    kernels = {GOOD: Planted(GOOD, spoil), OTHER: registry.get(OTHER)}
    records, _ = run_comparison(
        comparison(GOOD, OTHER),
        CPU,
        QUICK,
        kernels=kernels.__getitem__,
        progress=lambda phase, what, done: armed.append(what) if phase == "time" else armed.clear(),
    )
    assert wrote, "the kernel did not do what it is to be found at"
    assert records[1].status is Status.OK and len(records[1].samples["time_host"]) == 2
    if times == 1:  # once more, and it did not
        assert records[0].status is Status.OK
    else:
        assert records[0].status is Status.INCORRECT
        assert records[0].reason == "wrote, while it was timed, to what it is to read: b"


@pytest.mark.parametrize(
    "reshape",
    [
        lambda operands: operands.scale_b.as_strided_(operands.scale_b.shape, (0, 0)),
        lambda operands: operands.b.t_(),
        lambda operands: operands.a.resize_(1, 1),
        lambda operands: operands.out.resize_(3, 5),
        lambda operands: operands.a.set_(operands.a.new_zeros(2)),
    ],
)
def test_what_a_kernel_does_to_the_shape_of_its_operands_is_its_own_affair(reshape):
    """It is judged by what it was given, and so are its neighbours."""

    class Reshaping(Planted):
        def prepare(self, problem, device):
            inner = registry.get(GOOD).prepare(problem, device)

            def bind(operands):
                reshape(operands)
                return inner.bind(operands)

            return SimpleNamespace(config={}, bind=bind)

    scheme = SCHEMES[3]
    names = (GOOD, OTHER)
    cells = [Cell(name, KernelName.parse(name).problem(SHAPE, Format.INT8, scheme)) for name in names]
    kernels = {GOOD: Reshaping(GOOD, lambda operands, calls: None), OTHER: registry.get(OTHER)}
    for order in (cells, cells[::-1]):
        records, _ = run_comparison(
            Comparison(0, LabelledShape(SHAPE), tuple(order)), CPU, QUICK, kernels=kernels.__getitem__
        )
        statuses = {record.kernel: record.status for record in records}
        assert statuses[OTHER] is Status.OK
        assert statuses[GOOD] in (Status.INCORRECT, Status.FAILED)


def test_what_fails_when_it_is_bound_for_the_duplicate_is_no_ok():
    binds = []

    class Binding(Planted):
        def prepare(self, problem, device):
            inner = registry.get(GOOD).prepare(problem, device)

            def bind(operands):
                binds.append(operands)
                return inner.bind(operands) if len(binds) != 3 else raise_(ValueError("third bind"))

            return SimpleNamespace(config={}, bind=bind)

    kernels = {GOOD: Binding(GOOD, lambda operands, calls: None), OTHER: registry.get(OTHER)}
    records, end = run_comparison(comparison(GOOD, OTHER), CPU, QUICK, kernels=kernels.__getitem__)
    assert [record.status for record in records] == [Status.FAILED, Status.OK]
    assert "third bind" in records[0].reason
    assert end.duplicate["kernel"] == OTHER


def test_what_only_prepare_can_refuse_is_unsupported():
    class Refusing(Planted):
        def prepare(self, problem, device):
            raise Refused("the library has no algorithm for k=40")

    kernels = {GOOD: Refusing(GOOD, lambda operands, calls: None), OTHER: registry.get(OTHER)}
    (one, other), _ = run_comparison(comparison(GOOD, OTHER), CPU, QUICK, kernels=kernels.__getitem__)
    assert (one.status, one.reason) == (Status.UNSUPPORTED, "the library has no algorithm for k=40")
    assert other.status is Status.OK


def test_a_good_kernel_is_ok_with_samples_of_every_block_and_its_error():
    (record,), end = run_comparison(comparison(GOOD), CPU, QUICK)
    assert (record.status, record.reason, record.blocks, end.blocks) == (Status.OK, "", {"time_host": (0, 1)}, 2)
    assert len(record.samples["time_host"]) == 2
    assert all(0 < seconds < 1 for seconds in record.samples["time_host"])
    assert record.launches_per_sample["time_host"] >= 1
    assert 1e-4 < record.error["relative"] < 3e-3
    assert 0 < record.error["worst"] <= 1
    assert record.labels == {"layer": "x"}


def test_a_wrong_element_is_incorrect_and_not_timed():
    record = run_with(lambda operands, calls: operands.out[0, 0].fill_(12345.0))
    assert record.status is Status.INCORRECT
    assert "row 0, column 0" in record.reason
    assert record.samples == {}


def test_an_unwritten_output_is_incorrect():
    record = run_with(lambda operands, calls: operands.out.fill_(float("nan")))
    assert record.status is Status.INCORRECT
    assert "NaN" in record.reason
    assert record.error is None, "infinity is no JSON"


def test_a_kernel_that_goes_wrong_only_after_many_calls_is_found_after_timing():
    record = run_with(lambda operands, calls: operands.out.zero_() if calls > 3 else None)
    assert record.status is Status.INCORRECT
    assert record.reason.startswith("after timing, on another A: ")
    assert record.samples == {}


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (RuntimeError("no such thing\nand more"), Status.FAILED),
        (torch.OutOfMemoryError("CUDA out of memory"), Status.OUT_OF_MEMORY),
        (MemoryError("host"), Status.OUT_OF_MEMORY),
        (CompileError("ptxas failed"), Status.COMPILE_ERROR),
        (TRITON_ERROR("too much shared memory"), Status.COMPILE_ERROR),
    ],
)
@pytest.mark.parametrize("at_call", [1, 3])
def test_what_a_kernel_raises_becomes_its_status(error, status, at_call):
    record = run_with(lambda operands, calls: raise_(error) if calls == at_call else None)
    assert record.status is status
    assert str(error).splitlines()[0] in record.reason
    assert "\n" not in record.reason


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (SystemExit(0), "SystemExit: 0"),
        (GeneratorExit("early"), "GeneratorExit: early"),
        (MuteError(), "MuteError: its text can't be made: RuntimeError"),
    ],
)
@pytest.mark.parametrize("at_call", [1, 3])
def test_what_would_end_the_process_is_a_failure_like_any_other(error, says, at_call):
    record = run_with(lambda operands, calls: raise_(error) if calls == at_call else None)
    assert (record.status, record.reason) == (Status.FAILED, says)


@pytest.mark.parametrize("at_call", [1, 3])
def test_an_interrupt_is_the_users_unless_this_process_does_not_listen_to_it(at_call):
    def interrupt(operands, calls):
        if calls == at_call:
            raise KeyboardInterrupt

    heard = signal.signal(signal.SIGINT, signal.default_int_handler)  # whatever this process was started with
    try:
        with pytest.raises(KeyboardInterrupt):
            run_with(interrupt)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # as in a worker
        record = run_with(interrupt)
    finally:
        signal.signal(signal.SIGINT, heard)
    assert (record.status, record.reason) == (Status.FAILED, "KeyboardInterrupt")


@pytest.mark.parametrize(
    ("name", "declared", "status"),
    [
        ("pytorch_fp8_fp8_fp16_scaled_mm", {}, Status.INCORRECT),
        ("pytorch_fp8_fp8_fp16_scaled_mm", {"fast_accum": True}, Status.OK),
        ("pytorch_fp8_fp8_fp16_scaled_mm_fast_accum", {}, Status.OK),
    ],
)
def test_the_error_of_a_short_accumulator_is_allowed_to_those_that_use_one(name, declared, status):
    exact = registry.get("pytorch_fp8_fp8_fp16_scaled_mm")
    shape = GemmShape(m=3, n=4, k=4096)

    class Short:
        """A kernel, and what it prepares."""

        config = MappingProxyType({})

        def __init__(self):
            self.name = name
            vars(self).update(declared)

        def supports(self, problem, device):
            return Support.yes()

        def prepare(self, problem, device):
            return self

        def bind(self, operands):
            launch = exact.prepare(operands.problem, CPU).bind(operands).total
            squares = operands.a.float().square() @ operands.b.float().square()
            error = 0.02 * operands.scale_a * operands.scale_b * squares.sqrt()
            return Launches(lambda: (launch(), operands.out.add_(error)))

    problem = KernelName.parse(name).problem(shape, Format.FP8, PER_TENSOR)
    one = Comparison(0, LabelledShape(shape, {}), (Cell(name, problem),))
    (record,), _ = run_comparison(one, CPU, QUICK, kernels=lambda name: Short())
    assert record.status is status, record.reason


def test_a_refusal_keeps_its_reason():
    @dataclass
    class Refuses:
        name: str = GOOD

        def supports(self, problem, device):
            return Support.no("k=40 is not a multiple of 16")

    (record,), _ = run_comparison(comparison(GOOD), CPU, QUICK, kernels=lambda name: Refuses())
    assert (record.status, record.reason) == (Status.UNSUPPORTED, "k=40 is not a multiple of 16")


def test_dynamic_activations_are_timed_whole_and_in_parts():
    problem = KernelName.parse(GOOD).problem(SHAPE, Format.INT8, SCHEMES[3], Activations.DYNAMIC)
    where = LabelledShape(SHAPE)
    (record,), _ = run_comparison(Comparison(0, where, (Cell(GOOD, problem),)), CPU, QUICK)
    assert record.status is Status.OK, record.reason
    assert set(record.samples) == {"time_host", "time_host_quant", "time_host_gemm"}


@pytest.mark.parametrize("data", list(Distribution))
@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 5, 1), (17, 130, 257)], ids=str)
def test_every_kernel_scheme_and_kind_of_activations_is_right_or_refused_on_a_cpu(shape, data):
    m, n, k = shape
    where = LabelledShape(GemmShape(m=m, n=n, k=k))
    cells = []
    for name in registry.PROVIDERS[0].kernels + registry.PROVIDERS[0].on_request:
        parsed = KernelName.parse(name)
        fmt = next(fmt for fmt in W8A8_FORMATS if parsed.serves(fmt))
        schemes = (None,) if parsed.is_baseline else SCHEMES
        problems = [parsed.problem(where.shape, fmt, s, a) for s in schemes for a in Activations]
        cells += [Cell(name, p) for p in dict.fromkeys(problems) if p.why_illegal() is None]
    once = Settings(data=data, stop=StopRule(min_blocks=1, max_blocks=1))
    records, _ = run_comparison(Comparison(0, where, tuple(cells)), CPU, once)
    for record in records:
        assert record.status in (Status.OK, Status.UNSUPPORTED), f"{record.kernel} {record.problem} {record.reason}"
        assert ("emulated" in record.flags) is (record.problem.format is Format.FP8)
    assert sum(record.status is Status.OK for record in records) > 40


FP8 = "pytorch_fp8_fp8_bf16_scaled_mm"
BASELINE = "pytorch_bf16_bf16_bf16_matmul-no-scales"


def mixed() -> Comparison:
    """Two INT8 cells of one scheme, a refused one of another, FP8, and a baseline."""
    cells = [*comparison(GOOD, OTHER, "cutlass_i8_i8_bf16_scaled_mm_azp", BASELINE).cells]
    cells.append(Cell(FP8, KernelName.parse(FP8).problem(SHAPE, Format.FP8, PER_TENSOR, Activations.DYNAMIC)))
    return Comparison(0, LabelledShape(SHAPE), tuple(cells))


def test_every_cell_says_how_exact_its_scheme_is_whatever_data_is_timed():
    records, _ = run_comparison(mixed(), CPU, QUICK)
    good, other, refused, baseline, fp8 = (record.scheme_sqnr_db for record in records)
    assert records[2].status is Status.UNSUPPORTED
    assert good.keys() == {"normal", "outliers"}
    assert good == other, "bias is no part of the scheme"
    assert good != refused and refused.keys() == good.keys(), "a scheme is as exact where no kernel computes it"
    assert baseline == {}, "its operands are the unquantized ones"
    assert good["outliers"] < good["normal"] - 5
    assert good["normal"] > fp8["normal"] > 25
    zeros, _ = run_comparison(mixed(), CPU, Settings(data=Distribution.ZEROS, stop=QUICK.stop))
    assert [record.scheme_sqnr_db for record in zeros] == [record.scheme_sqnr_db for record in records]


def test_an_accuracy_that_can_not_be_found_costs_no_cell_and_is_not_hidden(monkeypatch):
    monkeypatch.setattr(check_cells, "scheme_sqnr_db", lambda *given, **named: raise_(MemoryError("no room\nat all")))
    records, _ = run_comparison(comparison(GOOD, OTHER), CPU, QUICK)
    assert [(r.status, r.scheme_sqnr_db) for r in records] == [(Status.OK, {})] * 2
    assert {record.reason for record in records} == {"SQNR is not known: MemoryError: no room"}


def test_on_a_cpu_the_default_budget_skips_nothing_and_one_that_was_asked_for_does(monkeypatch):
    clock = [0.0]

    def slow(operands, calls):
        clock[0] += 100.0

    for module in (comparison_run, cell_run, time_cells, blocks):
        monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    kernels = {GOOD: Planted(GOOD, slow), OTHER: registry.get(OTHER)}
    asked = Settings(stop=QUICK.stop, budget_s=10.0)
    records, _ = run_comparison(comparison(GOOD, OTHER), CPU, asked, kernels=kernels.__getitem__)
    assert [record.status for record in records] == [Status.OK, Status.SKIPPED]
    default = asked.with_default_budget(2, cuda=False)
    records, end = run_comparison(comparison(GOOD, OTHER), CPU, default, kernels=kernels.__getitem__)
    assert [record.status for record in records] == [Status.OK, Status.OK]
    assert end.blocks == 1, "the first block is always timed, and then no other is begun"
    assert all("unsettled" in record.flags for record in records)


def test_no_accuracy_is_found_without_time_or_a_cell_that_wants_it(monkeypatch):
    asked = []
    monkeypatch.setattr(check_cells, "scheme_sqnr_db", lambda *given, **named: asked.append(given) or {})
    refused = comparison("cutlass_i8_i8_bf16_scaled_mm")
    for what in (comparison(BASELINE), refused):
        run_comparison(what, CPU, QUICK)
    assert asked == []
    clock = [0.0]

    def slow(operands, calls):
        clock[0] += 100.0

    for module in (comparison_run, cell_run, time_cells):
        monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    for budget_s, times in ((10.0, 0), (1000.0, 1)):
        settings = Settings(stop=QUICK.stop, budget_s=budget_s)
        (record,), _ = run_comparison(comparison(GOOD), CPU, settings, kernels=lambda name: Planted(name, slow))
        assert (record.status, len(asked)) == (Status.OK, times), "checked, but the check took the whole budget"
