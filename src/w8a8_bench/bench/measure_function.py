"""`w8a8_bench.measure`: a function of the caller's own, checked and timed as every kernel is.

torch is imported when `measure` is called, and not with this module.
"""

from __future__ import annotations

import difflib
import html
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from msgspec.structs import replace

from w8a8_bench import stats, text
from w8a8_bench.analysis import metrics
from w8a8_bench.bench.retry import within_memory
from w8a8_bench.bench.worker import why_no_torch
from w8a8_bench.environment import detect
from w8a8_bench.environment.device import Device
from w8a8_bench.kernel import Kernel, Status
from w8a8_bench.problem import Azp, GemmShape, Problem, Scaling
from w8a8_bench.problem.comparison import Cell, Comparison, LabelledShape
from w8a8_bench.problem.distribution import Distribution
from w8a8_bench.problem.formats import OUT_FORMATS, W8A8_FORMATS, Format
from w8a8_bench.problem.kernel_name import BASELINE, KernelName
from w8a8_bench.providers import registry
from w8a8_bench.providers.function import make_kernel
from w8a8_bench.report import rows, table
from w8a8_bench.results.record import ComparisonEnd, Record
from w8a8_bench.text import one_line, shown
from w8a8_bench.timing.measures import Timer, choose, headline
from w8a8_bench.timing.settings import RIGORS, Settings

if TYPE_CHECKING:
    import torch

IN_ONE_PROCESS = tuple(name for name, rigor in RIGORS.items() if rigor.processes == 1)
"""The rigors that the caller's process can give: `publish` needs fresh ones."""

NEARLY_RIGHT = 0.01
"""Relative error of an FP8 answer that may be wrong by its accumulation alone."""

COLUMNS = ("kernel", "median", "±95%", "vs bf16", "error", "status", "reason")
"""Of the table in a notebook."""


def measure(
    function: Callable[..., object],
    *,
    dtype: str | torch.dtype,
    m: int,
    n: int,
    k: int,
    scheme: str = "tensor-w-tensor-a",
    bias: bool = False,
    azp: str | None = None,
    out: str | torch.dtype = "bf16",
    fast_accum: bool = False,
    against: Sequence[str] = ("pytorch",),
    rigor: str = "quick",
    data: str = "normal",
    seed: int = 0,
    timer: str | None = None,
    device: str = "auto",
) -> Measured:
    """Check `function` against a float64 reference, and time it beside bf16 and the kernels of `against`.

        import torch
        import w8a8_bench

        def int_mm(a, b, scale_a, scale_b):
            return (torch._int_mm(a, b) * scale_a * scale_b).to(torch.bfloat16)

        print(w8a8_bench.measure(int_mm, dtype="int8", m=64, n=512, k=512, scheme="channel-w-token-a"))

    `function` gets those of these tensors that its parameters name. It returns D [m,n], or writes it to `out`:

        a        [m,k] row-major, in `dtype`
        b        [k,n] column-major (the weight [n,k], transposed), in `dtype`
        scale_a  fp32: [1,1] per tensor, [m,1] per token, [m, ceil(k/128)] per group
        scale_b  fp32: [1,1] per tensor, [1,n] per channel, [ceil(k/128), ceil(n/128)] per block
        azp      int32: [1,1] per tensor, [m,1] per token; only with `azp`
        azp_adj  int32 [n]: `azp * b.sum(0)` per tensor, `b.sum(0)` per token; only with `azp`
        bias     [n] in the output format; only with `bias`
        out      [m,n] row-major in the output format

        D = scale_a * scale_b * (a @ b) + bias
        D = scale_a * scale_b * (a @ b - azp_adj) + bias           azp="tensor"
        D = scale_a * scale_b * (a @ b - azp * azp_adj) + bias     azp="token"

    A function without a signature, such as PyTorch's own operations, gets them by position: a, b, scale_a, scale_b,
    then azp and azp_adj if there are zero points, then bias if there is one.

    dtype       "int8" or "fp8", or torch.int8 or torch.float8_e4m3fn
    scheme      granularity of both scales, by a name of `w8a8-bench list schemes`; "block-w-group-a" is blockwise
    bias        whether D has a bias
    azp         zero point of the activations, for int8: None, "tensor" or "token"
    out         output format: "bf16" or "fp16"
    fast_accum  `function` sums FP8 products in the tensor core's short accumulator: the check allows for its error
    against     names of kernels, or of providers: a provider stands for all its kernels for this very problem
    rigor       "quick" (6 to 12 blocks, ±1%) or "standard" (12 to 40 blocks, ±0.5%)
    data        what the timed operands hold: "normal", "uniform", "outliers", "zeros" or "unit"
    timer       "graph" (the default on a GPU), "event" or "host" (the default on a CPU)
    device      "auto", "cpu", "cuda" or "cuda:<index>"

    Everything runs in this process. If the function is wrong or raises, the result says so: its status is `incorrect`
    or `failed`. Raises ValueError for a bad argument, for a problem that has no meaning, and for a shape that memory
    has no room for; ImportError if torch can't be imported; RuntimeError if a kernel breaks the GPU's context.
    """
    problem = _problem(GemmShape(m=m, n=n, k=k), dtype, scheme, bias, azp, out)
    providers = tuple(provider.name for provider in registry.all_providers())
    kernel = make_kernel(function, problem, fast_accum=_flag("fast_accum", fast_accum), taken=providers)
    baseline = Cell(BASELINE, KernelName.parse(BASELINE).problem(problem.shape, problem.format, None))
    others, notes = _others(against, problem)
    cells = tuple(dict.fromkeys([Cell(kernel.name, problem), baseline, *others]))
    settings = Settings(
        seed=_whole("seed", seed),
        data=Distribution.parse(data),
        stop=RIGORS[_choice("rigor", rigor, IN_ONE_PROCESS)].stop,
    )
    asked = None if timer is None else Timer(_choice("timer", timer, [one.value for one in Timer]))
    detect.check_device_name(str(device))

    if why := why_no_torch():
        raise ImportError(why)
    from w8a8_bench.bench.comparison_run import run_comparison

    where = detect.resolve_device(str(device))
    used, measures = choose(asked, None, cuda=where.is_cuda)
    comparison = Comparison(0, LabelledShape(problem.shape), cells)
    settings = replace(settings, timer=used, measures=measures).with_default_budget(len(cells), cuda=where.is_cuda)
    fitting = within_memory(comparison, where, settings)
    if isinstance(fitting, str):
        raise ValueError(fitting)

    def find(name: str) -> Kernel:
        return kernel if name == kernel.name else registry.get(name)

    taken, end = run_comparison(comparison, where, fitting, kernels=find)
    named = where.uuid or where.kind
    records = tuple(replace(record, device=named) for record in taken)
    return Measured(records, end, where, fitting.stop.target, (*notes, *_hints(records[0])))


@dataclass(frozen=True, repr=False)
class Measured:
    """What `measure` found. `print` shows it as a table, and so does a notebook.

    records  one for each kernel: the function's, then the bf16 baseline's, then the others'
    end      of the comparison: seconds of each phase, blocks, the duplicate of the baseline
    device   where it was measured
    target   half width of the 95% interval, over the median, at which a time counts as settled
    notes    what else there is to say, a line each
    """

    records: tuple[Record, ...]
    end: ComparisonEnd
    device: Device
    target: float
    notes: tuple[str, ...] = ()

    @property
    def record(self) -> Record:
        """The function's."""
        return self.records[0]

    @property
    def status(self) -> Status:
        """What became of the function: `ok`, `incorrect`, `failed`, ... It equals that text."""
        return self.record.status

    @property
    def reason(self) -> str:
        """Why the function is not `ok`."""
        return self.record.reason

    @property
    def seconds(self) -> float | None:
        """Median time of the function; None if it is not `ok`."""
        samples = self.record.samples.get(self._measure or "")
        return stats.median(samples) if samples and self.status is Status.OK else None

    @property
    def speedup(self) -> float | None:
        """How many times faster the function is than bf16; None if one of them has no time."""
        ratio = self._over(self.record, self._recorded(BASELINE))
        return ratio.median if ratio else None

    def ratio(self, kernel: str) -> stats.Estimate | None:
        """Time of the function over that of `kernel`, with its 95% interval: below 1 if the function is faster.

        From samples of the same blocks. None if one of them has no time. Raises ValueError if no such kernel was
        measured; the text that the table shows is a name too.
        """
        return self._over(self._recorded(kernel), self.record)

    @property
    def _measure(self) -> str | None:
        return headline(name for record in self.records for name in record.samples)

    def _recorded(self, kernel: str) -> Record:
        for record in self.records:
            if kernel in (record.kernel, record.text):
                return record
        names = ", ".join(record.kernel for record in self.records)
        raise ValueError(f"kernel {shown(kernel)} was not measured: expected one of {names}")

    def _over(self, record: Record, other: Record) -> stats.Estimate | None:
        return metrics.speedup(record, other, self._measure) if self._measure else None

    def __str__(self) -> str:
        view = table.View(table.terminal_width(), self.target, show_unsupported=True)
        return "\n".join([table.render(self.records, [self.end], self.device, view), *self.notes])

    def __repr__(self) -> str:
        facts = [self.status.value, self.reason]
        facts += [text.format_time(self.seconds)] if self.seconds is not None else []
        facts += [f"{self.speedup:.2f}x over bf16"] if self.speedup is not None else []
        return f"<Measured {self.record.text}: {', '.join(filter(None, facts))}>"

    def _repr_html_(self) -> str:
        """The table in a notebook: plain HTML, all text escaped."""
        title = " · ".join(filter(None, [str(self.end.shape), self._measure, self.device.name]))
        shown_rows = rows.rows_of(self.records, self.device)
        lines = [_html_row("th", COLUMNS), *(_html_row("td", _texts(row, self._measure)) for row in shown_rows)]
        emulated = any(table.EMULATED in record.flags for record in self.records)
        notes = [table.EMULATED_NOTE, *self.notes] if emulated else self.notes
        below = [f"<p>{html.escape(note)}</p>" for note in notes]
        return "\n".join(["<table>", f"<caption>{html.escape(title)}</caption>", *lines, "</table>", *below])


def _html_row(tag: str, texts: Iterable[str]) -> str:
    return f"<tr>{''.join(f'<{tag}>{html.escape(text)}</{tag}>' for text in texts)}</tr>"


def _texts(row: rows.CellRow, measure: str | None) -> tuple[str, ...]:
    """The texts of `COLUMNS` for one kernel."""
    record, times = row.record, row.times.get(measure or "")
    return (
        record.text,
        text.format_time(times.seconds) if times else table.NOTHING,
        f"±{100 * times.half_width:.2f}%" if times and times.half_width is not None else table.NOTHING,
        f"{times.speedup.median:.2f}x" if times and times.speedup else table.NOTHING,
        f"{record.error['relative']:.1e}" if record.error else table.NOTHING,
        record.status.value,
        ": ".join(filter(None, [", ".join(record.flags), record.reason])),
    )


def _problem(shape: GemmShape, dtype: object, scheme: str, bias: object, azp: str | None, out: object) -> Problem:
    """The problem that the arguments describe. Raises ValueError if one is bad, or if together they have no meaning."""
    problem = Problem.of(
        shape=shape,
        format=_format("dtype", dtype, W8A8_FORMATS),
        out=_format("out", out, OUT_FORMATS),
        scaling=Scaling.parse(scheme),
        azp=Azp.NONE if azp is None else Azp(_choice("azp", azp, (Azp.TENSOR.value, Azp.TOKEN.value))),
        bias=_flag("bias", bias),
    )
    if reason := problem.why_illegal():
        raise ValueError(reason)
    return problem


def _format(what: str, value: object, formats: Sequence[Format]) -> Format:
    """The format that `value` names, by its own name or as torch's dtype."""
    for fmt in formats:
        if str(value) in (fmt.value, f"torch.{fmt.torch_name}"):
            return fmt
    names = [fmt.value for fmt in formats] + [f"torch.{fmt.torch_name}" for fmt in formats]
    raise ValueError(f"{what} {shown(value)}: expected one of {', '.join(names)}")


def _choice(what: str, value: object, choices: Sequence[str]) -> str:
    if isinstance(value, str) and value in choices:
        return value
    raise ValueError(f"{what} {shown(value)}: expected one of {', '.join(choices)}")


def _flag(what: str, value: object) -> bool:
    if isinstance(value, bool):
        return value
    raise ValueError(f"{what} {shown(value)}: expected True or False")


def _whole(what: str, value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise ValueError(f"{what} {shown(value)}: expected a whole number")


def _others(against: Sequence[str], problem: Problem) -> tuple[list[Cell], list[str]]:
    """A cell for each kernel of `against`, and a note on each provider that has none."""
    if isinstance(against, str) or not isinstance(against, Iterable):
        raise ValueError(f"against {shown(against)}: expected a list of names, say ['pytorch']")
    providers = {provider.name: provider for provider in reversed(registry.all_providers())}
    cells: list[Cell] = []
    notes = []
    for name in against:
        if not isinstance(name, str) or name not in providers:
            cells.append(_named_cell(name, problem, list(providers)))
            continue
        provider = providers[name]
        names = map(KernelName.parse, provider.kernels + provider.on_request)
        scaled = [one for one in names if not (one.is_baseline or one.why_not_under(problem.scaling))]
        same = [one for one in scaled if one.problem(problem.shape, problem.format, problem.scaling) == problem]
        found = [Cell(one.text, problem) for one in same]
        cells += found
        if not found:
            why = f"can't be used: {provider.fault}" if provider.fault else "has no kernel for this problem"
            notes.append(one_line(f"{name} {why}"))
    return cells, notes


def _named_cell(kernel: object, problem: Problem, providers: Sequence[str]) -> Cell:
    """The cell of a kernel that was named, under the scheme of `problem`, or else under the only one that it has."""
    try:
        registry.provider_of(str(kernel))
    except KeyError:
        known = [*providers, *registry.names(tuple(Format), on_request=True)]
        near = difflib.get_close_matches(str(kernel), known, n=3)
        hint = f"the nearest are {', '.join(near)}" if near else "`w8a8-bench list kernels` shows all"
        raise ValueError(f"against {shown(kernel)}: no kernel or provider has this name; {hint}") from None
    name = KernelName.parse(str(kernel))
    scaling = name.default_scheme if name.why_not_under(problem.scaling) else problem.scaling
    return Cell(name.text, name.problem(problem.shape, problem.format, scaling))


def _hints(record: Record) -> list[str]:
    """What the caller may have left out, if the function is wrong."""
    nearly = record.status is Status.INCORRECT and record.error and record.error["relative"] < NEARLY_RIGHT
    if nearly and record.problem.format is Format.FP8 and not KernelName.parse(record.kernel).variant:
        return ["If the function sums FP8 products in the tensor core's short accumulator, pass fast_accum=True."]
    return []
