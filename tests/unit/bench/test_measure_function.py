"""`w8a8_bench.measure`: functions that are right, wrong or broken, how they get their tensors, and what is shown."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
import textwrap
from functools import partial
from pathlib import Path

import pytest
import torch
from copies import replace

import w8a8_bench
from w8a8_bench.analysis import metrics
from w8a8_bench.bench import measure_function
from w8a8_bench.bench.measure_function import Measured
from w8a8_bench.environment import detect
from w8a8_bench.environment.detect import resolve_device
from w8a8_bench.kernel import Probe, Status
from w8a8_bench.problem import Activations, Azp
from w8a8_bench.problem.kernel_name import BASELINE, KernelName
from w8a8_bench.providers import registry
from w8a8_bench.providers.provider import Provider
from w8a8_bench.timing import host, settings

SCHEME = "channel-w-token-a"
BF16 = torch.bfloat16
PYTORCH = "pytorch_i8_i8_bf16_scaled_mm"

measure = partial(w8a8_bench.measure, dtype="int8", m=17, n=48, k=40, against=(), device="cpu")


@pytest.fixture(autouse=True)
def short(monkeypatch):
    """Two blocks, and none of them long: nothing here asks how long anything takes."""
    stop = settings.StopRule(min_blocks=2, max_blocks=2)
    monkeypatch.setattr(measure_function, "RIGORS", {name: settings.Rigor(stop) for name in ("quick", "standard")})
    monkeypatch.setattr(host, "SAMPLE_S", 1e-4)


def int_mm(a, b, scale_a, scale_b):
    return (torch._int_mm(a, b) * scale_a * scale_b).to(BF16)


def with_everything(a, b, scale_a, scale_b, azp=None, azp_adj=None, bias=None):
    acc = torch._int_mm(a, b)
    if azp_adj is not None:
        acc = acc - (azp_adj if azp.numel() == 1 else azp * azp_adj)
    d = scale_a * scale_b * acc
    return (d if bias is None else d + bias).to(BF16)


def test_the_example_of_the_docstring_runs_as_it_stands(capsys):
    text = inspect.getdoc(w8a8_bench.measure)
    example = textwrap.dedent(re.search(r"\n\n(    import torch\n.*?)\n\n(?=\S)", text, re.DOTALL)[1])
    assert len(example.splitlines()) <= 10
    exec(compile(example, "example.py", "exec"), {})
    printed = capsys.readouterr().out
    for name in ("int_mm_i8_i8_bf16_scaled_mm", BASELINE, PYTORCH):
        assert re.search(rf"^{name}.* \d+(\.\d+)?x ", printed, re.MULTILINE), printed


def test_importing_the_package_and_its_functions_brings_no_torch():
    program = (
        "import sys\n"
        "import w8a8_bench\n"
        "assert 'w8a8_bench.bench.measure_function' not in sys.modules\n"
        "assert set(w8a8_bench.__all__) <= set(dir(w8a8_bench))\n"
        "from w8a8_bench import measure, __version__\n"
        "heavy = {'torch', 'numpy', 'rich', 'triton'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "assert all(callable(getattr(w8a8_bench, name)) for name in ('measure', 'bench_int8', 'bench_fp8'))\n"
        "assert w8a8_bench.bench_int8.__module__ == 'w8a8_bench.compat'\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(Path(w8a8_bench.__file__).parents[1])},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == 0, result.stderr


def test_what_the_package_does_not_have_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'w8a8_bench' has no attribute 'mesure'"):
        _ = w8a8_bench.mesure


def test_without_torch_one_line_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ImportError, match=r"torch is not installed: .*pip install"):
        measure(int_mm)


def test_a_right_function_is_ok_and_faster_or_slower_than_others_by_paired_samples():
    result = measure(int_mm, scheme=SCHEME, against=[PYTORCH])
    function, baseline, pytorch = result.records
    assert (result.status, result.reason) == ("ok", "")
    assert (function.kernel, function.config) == ("int_mm_i8_i8_bf16_scaled_mm", {"output": "returned"})
    assert (baseline.kernel, pytorch.kernel) == (BASELINE, PYTORCH)
    assert function.problem == pytorch.problem
    assert function.problem.activations is Activations.PREQUANTIZED
    assert result.device.kind == function.device == "cpu"
    assert result.end.duplicate["kernel"] == BASELINE
    taken, other = function.samples["time_host"], pytorch.samples["time_host"]
    assert result.seconds == pytest.approx(sum(taken) / 2)
    assert result.ratio(PYTORCH).median == pytest.approx((taken[0] / other[0] + taken[1] / other[1]) / 2)
    assert result.ratio(f"{PYTORCH}[{SCHEME}]") == result.ratio(PYTORCH)
    assert result.speedup == metrics.speedup(function, baseline, "time_host").median
    with pytest.raises(ValueError, match=f"kernel 'cutlass' was not measured: expected one of .*, {PYTORCH}"):
        result.ratio("cutlass")


def test_a_ratio_has_its_interval():
    made = measure(int_mm)
    samples = {"time_host": tuple(1e-5 * (100 + number) for number in range(8))}
    blocks = {"time_host": tuple(range(8))}
    records = [replace(record, samples=samples, blocks=blocks) for record in made.records]
    low, high = replace(made, records=tuple(records)).ratio(BASELINE).interval
    assert (low, high) == (pytest.approx(1), pytest.approx(1))


def test_a_function_may_write_its_output():
    def writes(a, b, scale_a, scale_b, out):
        out.copy_(int_mm(a, b, scale_a, scale_b))

    result = measure(writes)
    assert (result.status, result.record.config) == (Status.OK, {})


def test_a_function_that_may_write_its_output_may_return_another():
    result = measure(lambda a, b, scale_a, scale_b, out=None: int_mm(a, b, scale_a, scale_b))
    assert (result.status, result.record.config) == (Status.OK, {"output": "returned"})


def test_a_wrong_function_is_incorrect_with_the_reason_in_the_table():
    result = measure(lambda a, b, scale_a: (torch._int_mm(a, b) * scale_a).to(BF16))
    assert result.status is Status.INCORRECT
    assert "(the answer without scale_b)" in result.reason
    assert result.reason in " ".join(str(result).split())
    assert (result.seconds, result.speedup, result.ratio(BASELINE)) == (None, None, None)
    assert result.records[1].status is Status.OK
    assert repr(result) == f"<Measured function_i8_i8_bf16_scaled_mm: incorrect, {result.reason}>"


def test_a_result_of_another_dtype_says_which():
    result = measure(lambda a, b, scale_a, scale_b: torch._int_mm(a, b) * scale_a * scale_b)
    assert result.status is Status.INCORRECT
    assert result.reason == "returned float32 [17,48] on cpu: expected bfloat16 [17,48] on cpu"


def test_a_function_that_caches_its_first_answer_is_incorrect():
    answers = []

    def cached(a, b, scale_a, scale_b):
        return answers[0] if answers else answers.append(int_mm(a, b, scale_a, scale_b)) or answers[0]

    result = measure(cached)
    assert result.status is Status.INCORRECT
    assert result.reason.startswith("after timing, on another A: ")


def line_of(function, text: str) -> int:
    lines, first = inspect.getsourcelines(function)
    return first + next(number for number, line in enumerate(lines) if text in line)


def test_a_function_that_raises_is_failed_with_its_line():
    def raises(a, b, *others):
        return torch.mm(a, b[:-1])

    class Raising(torch.nn.Module):
        forward = staticmethod(raises)

    for function in (raises, Raising()):
        result = measure(function)
        assert result.status is Status.FAILED
        place = f"(test_measure_function.py, line {line_of(raises, 'torch.mm')})"
        assert result.reason.startswith("RuntimeError: ") and result.reason.endswith(place)
        assert result.records[1].status is Status.OK


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (lambda a, b: None, "<lambda>() returned None: expected a tensor, or a parameter `out`"),
        (lambda a, b: (a, b), "<lambda>() returned (tensor("),
    ],
)
def test_a_function_that_returns_no_tensor_and_has_no_out_is_failed(function, says):
    result = measure(function)
    assert result.status is Status.FAILED
    assert result.reason.startswith(says)
    assert result.reason.endswith(f"(test_measure_function.py, line {function.__code__.co_firstlineno})")


@pytest.mark.parametrize("azp", [None, "tensor", "token"])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("by_position", [False, True])
def test_tensors_come_by_name_or_without_a_signature_by_position(azp, bias, by_position):
    seen = []

    def by_name(azp_adj=None, *, scale_b, a, b, scale_a, bias=None, azp=None, alpha=1.0):
        seen.append(alpha)
        return with_everything(a, b, scale_a, scale_b, azp, azp_adj, bias)

    def positional(*tensors):
        seen.append(1.0)
        a, b, scale_a, scale_b, *rest = tensors
        assert len(rest) == (2 if azp else 0) + bias
        points = rest[:2] if azp else (None, None)
        return with_everything(a, b, scale_a, scale_b, *points, rest[-1] if bias else None)

    scheme = SCHEME if azp == "token" else "channel-w-tensor-a"
    result = measure(positional if by_position else by_name, azp=azp, bias=bias, scheme=scheme)
    assert (result.status, result.reason) == (Status.OK, "")
    assert result.record.problem.bias is bias
    assert result.record.problem.azp.value == (azp or "none")
    assert set(seen) == {1.0}


class Module(torch.nn.Module):
    def forward(self, a, b, scale_a, scale_b):
        return int_mm(a, b, scale_a, scale_b)


class Callable:
    def __call__(self, b, a, /, scale_a, scale_b):
        return int_mm(a, b, scale_a, scale_b)

    def method(self, scale_b, scale_a, a, b, **others):
        assert not others
        return int_mm(a, b, scale_a, scale_b)


def only_by_position(a, b, scale_a, scale_b, bias=None, out=None, /):
    assert bias is None and out is None
    return int_mm(a, b, scale_a, scale_b)


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (Module(), "module"),
        (Callable(), "callable"),
        (Callable().method, "method"),
        (only_by_position, "only_by_position"),
        (partial(with_everything, bias=None), "with_everything"),
        (lambda a, b, scale_a, scale_b: int_mm(a, b, scale_a, scale_b), "function"),
    ],
)
def test_whatever_can_be_called_is_a_function_and_names_its_kernel(function, name):
    result = measure(function)
    assert (result.status, result.reason) == (Status.OK, "")
    assert result.record.kernel == f"{name}_i8_i8_bf16_scaled_mm"
    assert result.record.provider == name


def test_pytorchs_own_operations_have_no_signature_and_get_tensors_by_position():
    fp8 = partial(w8a8_bench.measure, dtype=torch.float8_e4m3fn, m=16, n=32, k=32, against=(), device="cpu")
    assert fp8(partial(torch._scaled_mm, out_dtype=BF16)).record.kernel == "_scaled_mm_fp8_fp8_bf16_scaled_mm"[1:]
    wrong = fp8(torch._scaled_mm)
    assert wrong.status is Status.INCORRECT
    assert "float8_e4m3fn [16,32] on cpu: expected bfloat16" in wrong.reason


@pytest.mark.parametrize(
    ("own", "provider"),
    [
        ("pytorch", "pytorch_function"),
        ("Cutlass", "cutlass_function"),
        ("_my__GEMM_", "my_gemm"),
        ("größe", "gr_e"),
        ("_8bit", "function_8bit"),
        ("__", "function"),
        ("scaled_mm", "scaled_mm"),
        ("x_i8_i8_bf16_scaled_mm_bias", "x_i8_i8_bf16_scaled_mm_bias"),
    ],
)
def test_a_functions_name_becomes_a_providers_that_is_nobody_elses(own, provider):
    def function(a, b, scale_a, scale_b, bias):
        return with_everything(a, b, scale_a, scale_b, bias=bias)

    function.__name__ = own
    result = measure(function, bias=True)
    assert result.record.kernel == f"{provider}_i8_i8_bf16_scaled_mm_bias"
    assert KernelName.parse(result.record.kernel).provider == result.record.provider == provider
    assert result.status is Status.OK


def test_operands_can_be_given_as_torch_names_them():
    result = measure(int_mm, dtype=torch.int8, out=torch.bfloat16, device=torch.device("cpu"))
    assert result.status is Status.OK
    half = measure(lambda a, b, scale_a, scale_b: (torch._int_mm(a, b) * scale_a * scale_b).half(), out="fp16")
    assert (half.status, half.record.kernel) == (Status.OK, "function_i8_i8_fp16_scaled_mm")


def needs(x, b):
    return x


def needs_bias(a, b, bias):
    return a


def needs_azp(a, b, *, azp):
    return a


@pytest.mark.parametrize(
    ("function", "arguments", "says"),
    [
        (int_mm, {"dtype": "int4"}, "dtype 'int4': expected one of int8, fp8, torch.int8, torch.float8_e4m3fn"),
        (int_mm, {"dtype": torch.bfloat16}, "dtype torch.bfloat16: expected one of int8, fp8, torch.int8"),
        (int_mm, {"out": "fp32"}, "out 'fp32': expected one of bf16, fp16, torch.bfloat16, torch.float16"),
        (int_mm, {"scheme": "per-token"}, "scheme 'per-token': expected one of tensor-w-tensor-a, "),
        (int_mm, {"azp": "none"}, "azp 'none': expected one of tensor, token"),
        (int_mm, {"azp": True}, "azp True: expected one of tensor, token"),
        (int_mm, {"bias": "yes"}, "bias 'yes': expected True or False"),
        (int_mm, {"fast_accum": 1}, "fast_accum 1: expected True or False"),
        (int_mm, {"fast_accum": True}, "fast accumulation: expected an fp8 problem without bias"),
        (int_mm, {"m": 0}, "m=0: expected at least 1"),
        (int_mm, {"n": 1.5}, "n=1.5: expected a whole number"),
        (int_mm, {"rigor": "publish"}, "rigor 'publish': expected one of quick, standard"),
        (int_mm, {"data": "noise"}, "data 'noise': expected one of normal, uniform, outliers, zeros, unit"),
        (int_mm, {"seed": "1"}, "seed '1': expected a whole number"),
        (int_mm, {"timer": "clock"}, "timer 'clock': expected one of graph, event, host"),
        (int_mm, {"timer": "graph"}, "--timer graph needs a GPU"),
        (int_mm, {"device": "tpu"}, "device 'tpu': expected auto, cpu, cuda or cuda:<index>"),
        (int_mm, {"against": "pytorch"}, "against 'pytorch': expected a list of names, say ['pytorch']"),
        (int_mm, {"against": 5}, "against 5: expected a list of names"),
        (int_mm, {"against": [5]}, "against 5: no kernel or provider has this name; `w8a8-bench list kernels`"),
        (
            int_mm,
            {"against": ["pytroch"]},
            "against 'pytroch': no kernel or provider has this name; the nearest are py",
        ),
        (int_mm, {"against": [PYTORCH + "s"]}, f"has this name; the nearest are {PYTORCH}"),
        (int_mm, {"scheme": "block-w-group-a"}, "block-w-group-a is defined for fp8 only, not int8"),
        (int_mm, {"dtype": "fp8", "azp": "token"}, "fp8 takes no zero point"),
        (
            int_mm,
            {"azp": "tensor", "scheme": SCHEME},
            "a zero point per tensor goes with an activation scale per tensor",
        ),
        (5, {}, "function 5: expected a function of tensors"),
        (torch.nn.Linear, {}, "expected a function of tensors"),
        (
            needs,
            {},
            "needs() requires 'x', and the tensors of this problem are a, b, scale_a, scale_b, out: "
            "rename it, or give it a default",
        ),
        (needs, {"bias": True, "azp": "token"}, "are a, b, scale_a, scale_b, azp, azp_adj, bias, out: rename it"),
        (needs_bias, {}, "needs_bias() requires 'bias', and "),
        (needs_bias, {}, "pass bias=True to have it"),
        (needs_azp, {}, "pass azp='tensor' or azp='token' to have it"),
    ],
)
def test_bad_arguments_are_one_line_that_says_what_is_expected(function, arguments, says):
    with pytest.raises(ValueError) as raised:
        measure(function, **arguments)
    text = str(raised.value)
    assert says in text
    assert len(text.splitlines()) == 1


def test_a_shape_that_memory_has_no_room_for_is_refused_before_it_is_made(monkeypatch):
    device = replace(resolve_device("cpu"), available_bytes=1 << 30)
    monkeypatch.setattr(detect, "resolve_device", lambda wanted: device)
    with pytest.raises(ValueError, match=r"needs about .* GiB and .* has 1\.0 GiB free"):
        measure(int_mm, m=40000, n=40000, k=40000)


def test_a_shape_is_given_by_keyword():
    with pytest.raises(TypeError):
        w8a8_bench.measure(int_mm, "int8", 1, 1, 1)


def names(result: Measured) -> list[str]:
    return [record.kernel for record in result.records[2:]]


def test_a_provider_stands_for_its_kernels_for_this_very_problem():
    function = partial(measure, with_everything, against=["pytorch", "triton"], scheme=SCHEME, azp="token", bias=True)
    result = function()
    assert names(result) == [f"{name}_i8_i8_bf16_scaled_mm_azp_pt_bias" for name in ("pytorch", "triton")]
    assert {record.problem for record in result.records[2:]} == {result.record.problem}
    assert result.record.problem.azp is Azp.TOKEN
    assert result.records[3].status is Status.UNSUPPORTED, "its row says why"
    assert result.notes == ()


def test_the_default_is_pytorch_and_every_fp8_kernel_of_its_that_has_the_problem():
    def scaled_mm(a, b, scale_a, scale_b):
        return torch._scaled_mm(a, b, scale_a, scale_b, out_dtype=BF16)

    fp8 = partial(w8a8_bench.measure, scaled_mm, dtype="fp8", m=16, n=32, k=32, device="cpu")
    result = fp8()
    assert names(result) == [f"pytorch_fp8_fp8_bf16_scaled_mm{variant}" for variant in ("", "_fast_accum")]
    assert result.status is Status.OK, result.reason
    assert "emulated" in result._repr_html_() and "emulated" in str(result)


def test_blockwise_kernels_stand_beside_blockwise_functions_alone():
    def blockwise(a, b, scale_a, scale_b):
        wide_a = a.float() * scale_a.repeat_interleave(128, 1)[:, : a.shape[1]]
        wide_b = b.float() * scale_b.repeat_interleave(128, 0)[: b.shape[0]].repeat_interleave(128, 1)[:, : b.shape[1]]
        return (wide_a @ wide_b).to(BF16)

    result = measure(blockwise, dtype="fp8", k=300, scheme="block-w-group-a", against=["pytorch", "cutlass"])
    assert (result.status, result.reason) == (Status.OK, "")
    assert result.record.kernel == "blockwise_fp8_fp8_bf16_scaled_mm_blockwise"
    assert names(result) == [f"{provider}_fp8_fp8_bf16_scaled_mm_blockwise" for provider in ("pytorch", "cutlass")]


def test_a_kernel_by_name_may_be_of_another_problem_and_is_there_once():
    blockwise = "pytorch_fp8_fp8_bf16_scaled_mm_blockwise"
    azp = "pytorch_i8_i8_bf16_scaled_mm_azp"
    against = [PYTORCH, PYTORCH, BASELINE, blockwise, azp]
    result = measure(int_mm, scheme=SCHEME, against=against)
    assert names(result) == [PYTORCH, blockwise, azp]
    schemes = [record.problem.scaling.name for record in result.records[2:]]
    assert schemes == [SCHEME, "block-w-group-a", SCHEME]
    assert "a zero point per tensor goes with" in result.records[4].reason


def test_a_provider_that_has_no_such_kernel_or_is_broken_is_a_note_below_the_table(monkeypatch):
    broken = Provider("acme", "", origin="acme.py", fault="SyntaxError: line 3", unfit=True)
    monkeypatch.setattr(registry, "all_providers", lambda: (*registry.PROVIDERS, broken))
    result = measure(int_mm, against=["deepgemm", "acme"])
    notes = ("deepgemm has no kernel for this problem", "acme can't be used: SyntaxError: line 3")
    assert result.notes == notes
    assert str(result).splitlines()[-2:] == list(notes)
    assert all(f"<p>{note}</p>".replace("'", "&#x27;") in result._repr_html_() for note in notes)


def test_a_library_that_is_not_here_keeps_its_row(monkeypatch):
    monkeypatch.setattr(Provider, "probe", lambda self: Probe.missing("vllm is not installed"))
    registry.get.cache_clear()
    try:
        result = measure(int_mm, against=["vllm"])
    finally:
        registry.get.cache_clear()
    (record,) = result.records[2:]
    assert (record.status, record.reason) == (Status.UNSUPPORTED, "vllm is not installed")


def short_accumulator(a, b, scale_a, scale_b):
    exact = a.float() @ b.float() * scale_a * scale_b
    sizes = (a.float().square() @ b.float().square()).sqrt() * scale_a * scale_b
    return (exact + 0.006 * sizes).to(BF16)


def test_the_error_of_a_short_accumulator_is_allowed_on_request_and_the_request_is_hinted_at():
    fp8 = partial(w8a8_bench.measure, short_accumulator, dtype="fp8", m=8, n=16, k=1024, against=(), device="cpu")
    result = fp8()
    assert result.status is Status.INCORRECT
    assert "fast_accum=True" in result.notes[0]
    allowed = fp8(fast_accum=True)
    assert (allowed.status, allowed.notes) == (Status.OK, ())
    assert allowed.record.kernel == "short_accumulator_fp8_fp8_bf16_scaled_mm_fast_accum"
    assert measure(short_accumulator, dtype="int8").notes == (), "int8 is exact"


def test_a_notebook_shows_the_same_cells_with_all_text_escaped():
    def raises(a, b):
        raise ValueError("<script>alert('x')</script> & more")

    result = measure(raises, against=[PYTORCH])
    result = replace(result, device=replace(result.device, name="<b>CPU</b>"), notes=("<i>note</i>",))
    html = result._repr_html_()
    assert "&lt;script&gt;alert(&#x27;x&#x27;)&lt;/script&gt; &amp; more" in html
    assert "&lt;b&gt;CPU&lt;/b&gt;" in html and "<p>&lt;i&gt;note&lt;/i&gt;</p>" in html
    assert set(re.findall(r"<(/?\w+)[^>]*>", html)) == {
        f"{slash}{tag}" for slash in ("", "/") for tag in ("table", "caption", "tr", "th", "td", "p")
    }
    rows = re.findall(r"<tr><td>(.*?)</td>", html)
    assert rows == [record.text for record in result.records]
    assert html.count("<td>ok</td>") == 2
    assert re.search(r"<td>1\.00x</td>", html), "the baseline over itself"
