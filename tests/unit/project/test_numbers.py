"""Numbers, tables and examples in README.md and docs/ are those of the committed records, and the examples run."""

from __future__ import annotations

import ast
import importlib
import json
import pickle
import re
from functools import cache
from pathlib import Path
from statistics import fmean, geometric_mean

import msgspec
import pytest

from w8a8_bench import text
from w8a8_bench.analysis import metrics
from w8a8_bench.analysis.pairing import pair
from w8a8_bench.cli import main
from w8a8_bench.environment.device import Device
from w8a8_bench.problem import Activations, GemmShape, memory
from w8a8_bench.providers.registry import PROVIDERS
from w8a8_bench.report import table
from w8a8_bench.report.comparable_runs import make_sets
from w8a8_bench.report.compare import conditions
from w8a8_bench.report.compare.compare import Judgement, compare
from w8a8_bench.report.conclusion import answer
from w8a8_bench.report.run_facts import noise_floors, noise_of
from w8a8_bench.report.summary import geometric_mean as mean_speedup
from w8a8_bench.report.summary import summarize
from w8a8_bench.results import json_lines
from w8a8_bench.results.record import Record
from w8a8_bench.stats import median
from w8a8_bench.timing import settings

ROOT = Path(__file__).resolve().parents[3]
COLD = "time_cold_l2"
Times = dict[str, dict[GemmShape, float]]


def page(name: str) -> str:
    return (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8")


def words(name: str) -> str:
    """A page as one line, wherever its own lines end."""
    return " ".join(page(name).split())


def python_in(text: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def python_of(name: str) -> list[str]:
    """The blocks of Python in a page."""
    return python_in(page(name))


def readme() -> str:
    return (ROOT / "README.md").read_text(encoding="utf-8")


@cache
def results(name: str) -> json_lines.Results:
    return json_lines.read(ROOT / f"results/h200/{name}.jsonl.gz")


def lines_of(name: str, card: str = "h200") -> list[dict]:
    return [json.loads(line) for line in (ROOT / "results" / card / name).read_text().splitlines()]


def cold_times(name: str) -> Times:
    """Medians of `time_cold_l2` by kernel and shape."""
    found: Times = {}
    for record in results(name).records:
        if COLD in record.samples:
            found.setdefault(record.kernel, {})[record.problem.shape] = median(record.samples[COLD])
    return found


def over(times: Times, kernel: str, other: str) -> tuple[float, float]:
    """Geometric mean and maximum of the ratio of two kernels' times over the 35 shapes."""
    ratios = [seconds / times[other][shape] for shape, seconds in times[kernel].items()]
    assert len(ratios) == 35
    return geometric_mean(ratios), max(ratios)


def one_record(name: str, kernel: str, shape: GemmShape) -> Record:
    (found,) = (r for r in results(name).records if r.kernel == kernel and r.problem.shape == shape)
    return found


def test_the_four_times_are_those_of_one_committed_record():
    record = one_record("model_fp8_llama2_7b", "pytorch_fp8_fp8_bf16_scaled_mm", GemmShape(m=16, n=4096, k=4096))
    for measure in (COLD, "time_hot_l2", "time_kernel", "host_launch"):
        row = next(line for line in page("timing").splitlines() if line.startswith(f"| `{measure}` |"))
        assert f"| {text.format_time(median(record.samples[measure]))} |" in row


def test_the_evidence_of_the_instrument_is_committed():
    """All verdicts of the self-test, and 12 GEMMs beside Nsight Compute."""
    said = words("timing")
    verdicts = {line["name"]: line for line in lines_of("doctor_timing.jsonl") if line["kind"] == "verdict"}
    assert all(verdict["passed"] for verdict in verdicts.values())
    assert f"all {len(verdicts)} tests passed" in said
    assert f"| slope {verdicts['spin 3 us to 3 ms: slope']['figure']} |" in said
    identical = verdicts["identical kernels called different, of 300"]["figure"].partition(" ")[0]
    assert f"| called different in {identical} |" in said
    assert verdicts["a spin slowed by 1% found, of 100"]["figure"].startswith("100% ")
    gemms = [line for line in lines_of("ncu_agreement.jsonl") if line["kind"] == "agreement"]
    agreeing = [gemm for gemm in gemms if abs(gemm["cycles_off"]) <= max(0.02, 0.3e-6 / gemm["time_kernel"]["seconds"])]
    assert f"{len(agreeing)} of {len(gemms)} GEMMs within 2% or 0.3 us" in said
    assert all(gemm["dram_read_over_operands"] >= 0.95 for gemm in gemms if gemm["exceeds_a_tenth_of_l2"])


def agreements(name: str, card: str = "h200") -> list[dict]:
    """Times of a library beside an independent script's, all of which must agree."""
    lines = [line for line in lines_of(name, card) if line["kind"] == "agreement"]
    apart = [abs(line["benchmark_s"] - line["script_s"]) for line in lines]
    assert all(far <= max(0.03 * line["script_s"], 0.4e-6) for far, line in zip(apart, lines, strict=True))
    return lines


@pytest.mark.parametrize("card", ["h200", "h100"])
def test_the_evidence_of_an_independent_script_is_committed(card):
    lines = agreements("peer_times.jsonl", card)
    assert f"{len(lines)} of {len(lines)} within 3% or 0.4 us" in words("timing")
    kernels = {name for provider in PROVIDERS if provider.name in ("vllm", "deepgemm") for name in provider.kernels}
    assert {line["kernel"] for line in lines} == kernels


def test_the_evidence_of_an_independent_script_holds_for_the_newest_libraries():
    lines = agreements("peer_times_vllm_0_33.jsonl")
    assert {line["kernel"].partition("_")[0] for line in lines} == {"vllm", "sglang", "deepgemm"}
    assert f"{len(lines)} of {len(lines)} of vLLM 0.33, SGLang and DeepGEMM 2.8.1" in words("timing")
    every = len(lines) + len(agreements("peer_times.jsonl"))
    assert f"{every} of {every} times of vLLM's, SGLang's and DeepGEMM's kernels" in readme()


def test_our_kernels_beside_vllms_are_as_committed():
    """Geometric means over vLLM's kernels, the greatest ratio, no cliff, and the best of kernels that only read."""
    said = words("from-vllm")
    fp8, int8 = "fp8_fp8_bf16_scaled_mm", "i8_i8_bf16_scaled_mm"
    times = cold_times("schemes_35_shapes")
    ratios = [over(times, f"cutlass_{name}", f"vllm_{name}") for name in (fp8, int8, f"{int8}_azp_pt")]
    azp = over(cold_times("schemes_35_shapes_azp"), f"cutlass_{int8}_azp", f"vllm_{int8}_azp")
    assert max(most for _, most in (*ratios, azp)) <= 1.05
    means = [f"{mean:.2f}" for mean, _ in ratios]
    assert f"| `cutlass_*` | {' | '.join(means)} |" in said
    assert f"{azp[0]:.2f}" == means[2]
    triton = [f"{over(times, f'triton_{name}', f'vllm_{name}')[0]:.2f}" for name in (fp8, int8, f"{int8}_azp_pt")]
    assert f"| `triton_*` | {' | '.join(triton)} |" in said
    few = [line for line in lines_of("few_tokens.jsonl") if line["kind"] == "against_reads"]
    ratio = {name: [f["ratio"] for f in few if f["kernel"].startswith(name)] for name in ("cutlass", "triton")}
    low, high = min(ratio["cutlass"]), max(ratio["cutlass"])
    assert f"they take {low:.2f} to {high:.2f} times as long as the fastest of 40 kernels" in said
    assert f"`triton_*` {min(ratio['triton']):.2f} to {max(ratio['triton']):.2f} (" in said
    looks = [line for line in lines_of("cliffs.jsonl") if line["kind"] == "cliffs"]
    assert len(looks) == 12
    assert not [look for look in looks if look["found"]]


def test_what_a_scheme_costs_is_as_committed():
    said = words("schemes")
    int8 = "cutlass_i8_i8_bf16_scaled_mm"
    times, azp = cold_times("schemes_35_shapes"), cold_times("schemes_35_shapes_azp")
    zero_point = max(over(times, f"{int8}_azp_pt", int8)[0], over(azp, f"{int8}_azp", int8)[0])
    bias = max(over(times, f"{name}_bias", name)[0] for name in (int8, "cutlass_fp8_fp8_bf16_scaled_mm"))
    assert f"| a zero point | {zero_point - 1:.0%} |" in said
    assert f"| a bias | {bias - 1:.1%} |" in said
    lines = [line for line in lines_of("quantization.jsonl") if line["kind"] == "quantization"]
    dynamic = [line for line in lines if not line["kernel"].endswith("static")]
    once = [line for line in dynamic if "per tensor" not in line["kernel"]]
    twice = [line for line in dynamic if "per tensor" in line["kernel"]]
    many, many_twice = (max(line["ratio"] for line in some if line["m"] >= 2048) for some in (once, twice))
    assert f"at most {many:.2f} times a copy of the same bytes" in said
    assert f"at most {many_twice:.2f} times a copy |" in said
    assert f"at most {1e6 * max(line['seconds'] for line in once if line['m'] == 16):.1f} us |" in said


@pytest.mark.parametrize("m", [16, 2048])
def test_what_quantizing_inside_costs_is_as_committed(m):
    records = [r for r in results("dynamic_6_shapes").records if r.problem.shape == GemmShape(m=m, n=4096, k=4096)]
    (dynamic,) = (r for r in records if r.text == "triton_fp8_fp8_bf16_scaled_mm[channel-w-token-a,dynamic]")
    twin = metrics.prequantized_twin(dynamic, records)
    cost, gemm = metrics.quantization_cost(dynamic, twin, COLD), 1e6 * median(twin.samples[COLD])
    assert f"| +{1e6 * cost.median:.2f} us on {gemm:.2f} us |" in words("schemes")


def test_the_accuracy_of_the_schemes_is_as_committed():
    found: dict[tuple[str, str, str], dict[GemmShape, dict[str, float]]] = {}
    for record in results("dynamic_6_shapes").records:
        problem = record.problem
        if problem.scaling and problem.activations is Activations.PREQUANTIZED and record.scheme_sqnr_db:
            key = problem.format.value, problem.scaling.name, problem.azp.value
            found.setdefault(key, {})[problem.shape] = dict(record.scheme_sqnr_db)
    rows = re.findall(
        r"^\| (int8|fp8) `(.*?)`( with a zero point.*?)? \| (\S+) dB \| (\S+) dB \|$", page("schemes"), re.M
    )
    assert len(rows) == 6
    for fmt, scheme, azp, normal, outliers in rows:
        shapes = found[fmt, scheme, "token" if azp else "none"].values()
        assert len(shapes) == 6
        means = [f"{fmean(one[data] for one in shapes):.1f}" for data in ("normal", "outliers")]
        assert [normal, outliers] == means


@pytest.mark.parametrize(
    ("card", "said"), [("h200", "On two H200s the 28 shapes of an 8B model take {} of"), ("h100", "on two H100s {}.")]
)
def test_the_time_on_two_gpus_is_as_committed(card, said):
    lines = lines_of("two_gpus.jsonl", card)
    (walls,) = (line for line in lines if line["kind"] == "wall_time_s")
    beside = [line for line in lines if line["kind"] == "all beside each alone"]
    cells = sum(line["cells"] for line in beside)
    assert len(beside) == 2
    assert cells == sum(line["cells_within_1_percent"] for line in beside)
    assert not {"slower", "faster"} & {verdict for line in beside for verdict in line["verdicts"]}
    assert said.format(format(walls["all"] / walls["one"], ".2f")) in words("commands")
    assert f"within 1% in each of {cells} cells" in words("commands")


def test_host_and_graph_times_of_one_kernel_are_as_committed():
    kernel, shape = "pytorch_fp8_fp8_bf16_scaled_mm", GemmShape(m=512, n=512, k=512)
    host = one_record("square_fp8_host_timer", kernel, shape).samples["time_host"]
    graph = one_record("square_fp8", kernel, shape).samples[COLD]
    assert f"| {1e6 * median(host):.1f} us | `results/h200/square_fp8_host_timer.jsonl.gz` |" in page("from-vllm")
    assert f"| {1e6 * median(graph):.2f} us | `results/h200/square_fp8.jsonl.gz` |" in page("from-vllm")


def test_the_example_of_a_table_and_of_an_answer_is_made_of_committed_records():
    text = page("reading-results")
    taken = results("llama31_8b_one")
    title = next(line for line in text.splitlines() if line.startswith("m=1 n=4096 k=4096 "))
    kernels = set(re.findall(r"^(?:did not run: )?(\w+[\w-]*)(?::| +\d)", text, re.MULTILINE))
    records = [r for r in taken.records if r.kernel in kernels and r.problem.shape == GemmShape(m=1, n=4096, k=4096)]
    assert len(records) == 5
    view = table.View(table.WIDTH, table.target_of(taken.headers[0]))
    rendered = table.render(records, taken.ends, msgspec.convert(taken.headers[0].device, Device), view)
    assert rendered.startswith(title)
    assert f"```\n{rendered}\n```" in text
    lines = [wrapped for line in answer(make_sets([taken])[0]) for wrapped in table.wrapped(line, table.WIDTH)]
    assert "```\n" + "\n".join(lines) + "\n```" in text


def test_the_first_line_of_the_comparison_is_what_the_command_prints(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    command, shown = re.findall(r"^```\n(.*?)\n```", page("comparing"), re.MULTILINE | re.DOTALL)[:2]
    assert main.main(command.split()[1:]) == 0
    assert capsys.readouterr().out.splitlines()[0] == shown


def test_the_same_cells_in_another_order_are_as_far_apart_as_the_page_says():
    said, one = words("comparing"), results("llama31_8b_one")
    timed = []
    for name in ("llama31_8b_two_gpus", "llama31_8b_dealt"):
        pairing = pair(one, results(name))
        anchored = conditions.anchored(conditions.differences(one, results(name), pairing))
        shapes = compare(pairing, anchored=anchored).shapes
        timed += [cell for shape in shapes if shape.pair.same_card for cell in shape.timed]
    apart = sum(abs(cell.ratio - 1) > 0.01 for cell in timed)
    verdicts = [cell.verdict for cell in timed]
    assert not {Judgement.SLOWER, Judgement.FASTER} & set(verdicts)
    assert f"{apart} of {len(timed)} cells on the same GPU are more than 1% apart" in said
    unclear = verdicts.count(Judgement.INCONCLUSIVE)
    assert f"none of the {len(timed)} changed, and most of them `inconclusive`" in said
    assert unclear > len(timed) / 2


def test_the_noise_floor_of_a_quiet_gpu_is_that_of_the_committed_sweeps():
    names = [path.name.removesuffix(".jsonl.gz") for path in (ROOT / "results/h200").glob("*.jsonl.gz")]
    floors = [floor for name in names for one in make_sets([results(name)]) for floor in noise_floors(one, COLD)]
    noise = noise_of(floors)
    assert f"in the sweeps in `results/h200` it is at most {noise.largest:.2%} away |" in page("reading-results")


def test_rigors_and_budgets_are_those_of_the_program():
    timing, reading = page("timing"), words("reading-results")
    for name, rigor in settings.RIGORS.items():
        stop = rigor.stop
        row = f"| `{name}` | {stop.min_blocks} to {stop.max_blocks} | ±{100 * stop.target:g}% | {rigor.processes} |"
        assert row in timing
        assert re.search(rf"{100 * stop.target:g}% with `(--rigor )?{name}`", reading)
    default = (
        f"is {settings.DEFAULT_BUDGET_S:g}, or {settings.CELL_BUDGET_S:g} for each kernel and scheme if that is more"
    )
    assert f"The default on a GPU {default}." in words("timing")


def test_what_a_cpu_does_is_what_the_page_says():
    said = words("timing")
    assert f"The default budget is {settings.CPU_BUDGET_S:g} s for each shape." in said
    most = f"2^{memory.CPU_ORACLE_OPERATIONS.bit_length() - 1}"
    assert memory.CPU_ORACLE_OPERATIONS == 2 ** int(most[2:]) < 2 * 4096**3
    assert f"more than {most} operations (2*m*n*k), say m=n=k=4096," in said
    assert f"as many as make {most} operations, and at least {memory.LEAST_JUDGED_ROWS}." in said


def test_the_loop_over_records_prints_every_time_of_its_file(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    (program,) = python_of("reading-results")
    exec(program, {})
    timed = [record for record in results("square_fp8").records if record.samples]
    assert len(capsys.readouterr().out.splitlines()) == len(timed)


def test_old_and_new_pickles_go_into_one_table(monkeypatch, capsys, tmp_path):
    benchmark = pytest.importorskip("torch.utils.benchmark")
    monkeypatch.chdir(tmp_path)
    for name, env in (("old.pkl", None), ("new.pkl", "graph, cold L2")):
        spec = benchmark.TaskSpec("f()", "", label="int8", sub_label="MKN=(1x2x3)", description=name, env=env)
        Path(name).write_bytes(pickle.dumps([benchmark.Measurement(1, [1e-6], spec)]))
    program = next(block for block in python_of("from-vllm") if "pickle" in block)
    exec(program, {})
    shown = capsys.readouterr().out
    assert "(graph, cold L2)" in shown
    assert "(vLLM's script)" in shown


def test_the_functions_run_as_the_page_shows(capsys):
    pytest.importorskip("torch")
    of_script, of_function = (block for block in python_of("from-vllm") if "w8a8_bench" in block)
    exec(of_script, {})
    assert re.findall(r"^(\w+[\w-]*) \d", capsys.readouterr().out, re.MULTILINE) == [
        "pytorch_bf16_bf16_bf16_matmul-no-scales",
        "pytorch_i8_i8_bf16_scaled_mm",
    ]
    exec(of_function, {})
    assert re.search(r"^ok \d\S* \d\S*\n\d", capsys.readouterr().out, re.MULTILINE)
    (of_readme,) = python_in(readme())
    exec(of_readme, {})
    assert re.search(r"^int_mm_\S+ +\d", capsys.readouterr().out, re.MULTILINE)


@pytest.mark.parametrize("name", ["commands", "from-vllm", "reading-results"])
def test_what_the_pages_import_exists(name):
    pytest.importorskip("torch")
    programs = python_of(name)
    assert programs
    for node in (node for program in programs for node in ast.walk(ast.parse(program))):
        if isinstance(node, ast.ImportFrom):
            module = importlib.import_module(node.module or "")
            assert [one.name for one in node.names if not hasattr(module, one.name)] == []


def test_the_readme_counts_what_the_committed_records_hold():
    said = " ".join(readme().split())
    gemms = [line for line in lines_of("ncu_agreement.jsonl") if line["kind"] == "agreement"]
    assert f"and {len(gemms)} of {len(gemms)} with Nsight Compute" in said


def test_the_readme_says_of_one_kernel_what_the_report_says():
    said = " ".join(readme().split())
    (one,) = make_sets([results("llama31_8b_libraries")])
    speedups = {standing.text: mean_speedup(standing.every) for standing in summarize(one).standings}
    assert f"The report says {speedups['cutlass_fp8_fp8_bf16_scaled_mm']:.2f}x for FP8 with one scale" in said
    assert max(speedups, key=speedups.__getitem__).startswith("cutlass_i8_"), "INT8 is first"
    assert f"25 dB means noise of {10 ** (-25 / 20):.0%} of the signal" in said
