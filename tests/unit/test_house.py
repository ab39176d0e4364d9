"""The house in order: documents that name what exists, modules that say what they are, one version, pins that agree."""

from __future__ import annotations

import ast
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import geometric_mean

import pytest

import w8a8_bench
from w8a8_bench import store
from w8a8_bench.cli.main import main
from w8a8_bench.kernel import FAULTS
from w8a8_bench.problem import Activations, GemmShape
from w8a8_bench.providers.registry import PROVIDERS
from w8a8_bench.stats import median

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "src" / "w8a8_bench"
DOCUMENTS = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/installing.md", "results/README.md")
SOURCE_DIRECTORIES = ("src", "tests", "scripts", "benchmarks")
MAX_LINES = 600

FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
INLINE_CODE = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"\]\(([^)\s]+)\)")
PATH = re.compile(r"[\w.-]+(/[\w.-]+)*/?")
SOURCE_SUFFIXES = (".py", ".md", ".toml", ".txt", ".cfg", ".ini", ".yml", ".yaml")
RESULT_SUFFIXES = (".jsonl", ".json", ".csv", ".pkl", ".html", ".png", ".svg")


def sources() -> list[Path]:
    return sorted(path for name in SOURCE_DIRECTORIES for path in (ROOT / name).rglob("*.py"))


def links(text: str) -> Iterator[str]:
    for target in LINK.findall(FENCE.sub("", text)):
        if not re.match(r"[a-z]+:|#", target):
            yield target.partition("#")[0]


def named_paths(text: str) -> Iterator[str]:
    """The words of inline code and of fenced blocks that read as paths inside the repository.

    Left out: absolute paths, placeholders, what a run writes under results/, and bare names of result files, which are
    a user's own in examples.
    """
    top_level = {path.name for path in ROOT.iterdir()}
    for code in FENCE.findall(text) + INLINE_CODE.findall(FENCE.sub("", text)):
        for word in code.split():
            word = word.strip("\"'(),;:").removesuffix(".").removeprefix("./")
            if not PATH.fullmatch(word) or word.startswith(".venv"):
                continue
            top, slash, _ = word.partition("/")
            if top == "results" and not word.startswith(("results/h200/", "results/calibration/")):
                continue
            if word.endswith(SOURCE_SUFFIXES) or (
                slash and (top in top_level or top in SOURCE_DIRECTORIES or word.endswith(RESULT_SUFFIXES))
            ):
                yield word


def exists(name: str) -> bool:
    """From the root, from the package, or, a bare name, anywhere in the sources."""
    if (ROOT / name).exists() or (PACKAGE / name).exists():
        return True
    return "/" not in name and any(True for top in SOURCE_DIRECTORIES for _ in (ROOT / top).rglob(name))


@pytest.mark.parametrize("document", DOCUMENTS)
def test_documents_name_only_paths_that_exist(document: str) -> None:
    text = (ROOT / document).read_text()
    missing = [name for name in named_paths(text) if not exists(name)]
    missing += [target for target in links(text) if not (ROOT / document).parent.joinpath(target).exists()]
    assert missing == []


def test_the_search_for_paths_sees_them_and_leaves_the_rest() -> None:
    text = """
    See `src/w8a8_bench/gone.py`, [the guide](docs/gone.md#how) and [a page](https://example.org/x.md).
    Not paths: `TFLOP/s`, `int8/fp8`, `cutlass_i8_i8_bf16_scaled_mm`, `mine.jsonl`, `results/main.jsonl`, `{a}/{b}.py`.

```
python3 benchmarks/gone.py --out mine.jsonl
```
    """
    assert sorted(named_paths(text)) == ["benchmarks/gone.py", "src/w8a8_bench/gone.py"]
    assert list(links(text)) == ["docs/gone.md"]
    assert not exists("src/w8a8_bench/gone.py")
    assert exists("setup_env.py")


def test_every_module_says_what_it_is() -> None:
    silent = [str(path.relative_to(ROOT)) for path in PACKAGE.rglob("*.py") if not ast.get_docstring(_parsed(path))]
    assert silent == []


def _parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), filename=str(path))


def test_no_file_outgrows_its_readers() -> None:
    files = [*sources(), ROOT / "Makefile", *(ROOT / name for name in DOCUMENTS)]
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in files}
    assert {name: length for name, length in lengths.items() if length > MAX_LINES} == {}


def test_version_is_the_changelogs_newest() -> None:
    newest = re.search(r"^## \[?v?(\d+\.\d+\.\d+\S*?)\]?(?:\s|$)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest is not None
    assert newest.group(1) == w8a8_bench.__version__


def test_constraints_pin_every_dependency_inside_its_range() -> None:
    tomllib = pytest.importorskip("tomllib", reason="Python 3.11 or newer")
    requirements = pytest.importorskip("packaging.requirements")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    pins: dict[str, list[str]] = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            pin = requirements.Requirement(line)
            pins.setdefault(pin.name, []).append(str(pin.specifier).removeprefix("=="))
    for text in [*project["dependencies"], *extras["cpu"], *extras["test"]]:
        wanted = requirements.Requirement(text)
        assert pins.get(wanted.name), f"{wanted.name} has no pin"
        assert all(version in wanted.specifier for version in pins[wanted.name]), text


LIBRARIES = "results/h200/llama31_8b_libraries.jsonl.gz"


def test_the_tables_of_the_readme_are_made_from_committed_records():
    command = [sys.executable, "scripts/peers_table.py", LIBRARIES]
    made = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    shown = made.strip().split("\n\n")[:3]
    assert ["scales per channel and token" in part or "blocks" in part for part in shown] == [True] * 3
    assert "\n\n".join(shown) in (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_recommendation_of_the_readme_is_that_of_committed_records(monkeypatch, capsys):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (command,) = re.findall(r"^w8a8-bench (recommend .*--min-sqnr .*)$", readme, re.MULTILINE)
    monkeypatch.chdir(ROOT)
    assert main(shlex.split(command)) == 0
    out = capsys.readouterr().out
    verdict = next(line for line in out.splitlines() if line.startswith("**One scheme"))
    schemes = out.partition("## One scheme for all layers\n")[2].partition("\n\n## ")[0]
    rows = "\n".join(line for line in schemes.splitlines() if line.startswith("|"))
    assert rows in readme
    scheme, speed = verdict.strip("*").removeprefix("One scheme for all layers and every m: ").split(",")[:2]
    assert f"It answers {scheme},{speed.split()[0].rjust(6)}" in readme
    assert main([*shlex.split(command)[:-2]]) == 0
    int8 = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| int8")]
    one, per_channel = ([cell.strip() for cell in line.split("|")[-4:-1]] for line in int8)
    said = (
        f"INT8 would be at {one[0].split()[0]}, but on activations with outliers it keeps {one[2]} of the signal with"
    )
    said += f" one scale and {per_channel[2]} with scales per channel and token"
    assert said in " ".join(readme.split())


@pytest.mark.parametrize("numbers", [(1, 2), (3, 4)])
def test_two_committed_sweeps_of_the_same_cells_agree(numbers):
    """What CHANGELOG.md says of them: medians of two runs are within 1% of each other in every cell."""
    runs = [store.read(ROOT / f"results/h200/llama2_7b_28_shapes_run{number}.jsonl.gz") for number in numbers]
    middles = [
        {(r.comparison, r.kernel, r.problem): median(r.samples["time_cold_l2"]) for r in run.records} for run in runs
    ]
    assert middles[0].keys() == middles[1].keys()
    assert len(middles[0]) == 280
    apart = [abs(middles[1][cell] / middle - 1) for cell, middle in middles[0].items()]
    assert max(apart) < 0.01


def test_committed_records_are_read_whole():
    paths = list((ROOT / "results/h200").glob("*.jsonl.gz"))
    assert len(paths) >= 5
    for path in paths:
        results = store.read(path)
        assert results.warnings == ()
        assert len(results.ends) == results.headers[0].plan["comparisons"]
        assert not [record for record in results.records if record.status in FAULTS]


def test_what_is_said_of_the_instrument_is_in_the_committed_records():
    """All verdicts of the self-test, and 12 GEMMs beside Nsight Compute."""
    said_of_results = results_text()
    lines = [json.loads(line) for line in (ROOT / "results/h200/doctor_timing.jsonl").read_text().splitlines()]
    verdicts = [line for line in lines if line["kind"] == "verdict"]
    assert len(verdicts) >= 16
    assert all(verdict["passed"] for verdict in verdicts)
    lines = [json.loads(line) for line in (ROOT / "results/h200/ncu_agreement.jsonl").read_text().splitlines()]
    gemms = [line for line in lines if line["kind"] == "agreement"]
    assert len(gemms) == 12
    agreeing = [gemm for gemm in gemms if abs(gemm["cycles_off"]) <= max(0.02, 0.3e-6 / gemm["time_kernel"]["seconds"])]
    assert f"({len(agreeing)} of 12 GEMMs within 2% or 0.3 us" in said_of_results
    assert all(gemm["dram_read_over_operands"] >= 0.95 for gemm in gemms if gemm["exceeds_a_tenth_of_l2"])


def test_what_is_said_of_schemes_cliffs_and_few_tokens_is_in_the_committed_records():
    """Geometric means and greatest ratios over vLLM's kernels, no cliff, and the best of kernels that only read."""
    said_of_results = results_text()
    fp8, int8 = "fp8_fp8_bf16_scaled_mm", "i8_i8_bf16_scaled_mm"
    times = cold_times("schemes_35_shapes")
    said = {name: over(times, f"cutlass_{name}", f"vllm_{name}") for name in (fp8, int8, f"{int8}_azp_pt")}
    azp = cold_times("schemes_35_shapes_azp")
    said[f"{int8}_azp"] = over(azp, f"cutlass_{int8}_azp", f"vllm_{int8}_azp")
    assert max(most for _, most in said.values()) <= 1.05
    means = [f"{mean:.2f}" for mean, _ in said.values()]
    text = "this project's CUTLASS kernels take {} (FP8) and {} (INT8) of the time of vLLM's, with zero points {}"
    assert text.format(*means[:3]) in said_of_results
    assert means[2] == means[3]
    triton = [over(times, f"triton_{name}", f"vllm_{name}")[0] for name in (fp8, int8)]
    assert f"Triton's take {triton[0]:.2f} and {triton[1]:.2f}." in said_of_results
    zero_point = [
        over(times, f"cutlass_{int8}_azp_pt", f"cutlass_{int8}"),
        over(azp, f"cutlass_{int8}_azp", f"cutlass_{int8}"),
    ]
    bias = [over(times, f"cutlass_{name}_bias", f"cutlass_{name}") for name in (fp8, int8)]
    costs = [f"{max(mean for mean, _ in found) - 1:.{digits}%}" for found, digits in ((zero_point, 0), (bias, 1))]
    assert "Zero points cost {}, a bias {}".format(*costs) in said_of_results
    few = [line for line in json_lines("few_tokens.jsonl") if line["kind"] == "against_reads"]
    ratios = [line["ratio"] for line in few if line["kernel"].startswith("cutlass")]
    assert f"CUTLASS takes {min(ratios):.2f} to {max(ratios):.2f} times as long" in said_of_results
    ratios = [line["ratio"] for line in few if line["kernel"].startswith("triton")]
    assert f"Triton {min(ratios):.2f} to {max(ratios):.2f} (" in said_of_results
    looks = [line for line in json_lines("cliffs.jsonl") if line["kind"] == "cliffs"]
    assert len(looks) == 12
    assert not [look for look in looks if look["found"]]


def test_what_is_said_of_quantization_is_in_the_committed_records():
    said_of_results = results_text()
    lines = [line for line in json_lines("quantization.jsonl") if line["kind"] == "quantization"]
    dynamic = [line for line in lines if not line["kernel"].endswith("static")]
    once = [line for line in dynamic if "per tensor" not in line["kernel"]]
    per_tensor = [line for line in dynamic if "per tensor" in line["kernel"]]
    many = [max(line["ratio"] for line in some if line["m"] >= 2048) for some in (once, per_tensor)]
    few_us = 1e6 * max(line["seconds"] for line in once if line["m"] == 16)
    assert f"takes Triton at most {many[0]:.2f} times as long as a copy" in said_of_results
    assert f"where A is read twice, {many[1]:.2f} times), and at most {few_us:.1f} us for 16 tokens" in said_of_results
    measured = store.read(ROOT / "results/h200/dynamic_6_shapes.jsonl.gz").records
    shapes = {record.problem.shape for record in measured if record.problem.activations is Activations.DYNAMIC}
    assert len(shapes) == 6


@pytest.mark.parametrize("card", ["h200", "h100"])
def test_what_is_said_of_an_independent_script_is_in_the_committed_records(card):
    lines = [line for line in json_lines("peer_times.jsonl", card) if line["kind"] == "agreement"]
    apart = [abs(line["benchmark_s"] - line["script_s"]) for line in lines]
    assert all(far <= max(0.03 * line["script_s"], 0.4e-6) for far, line in zip(apart, lines, strict=True))
    assert f"({len(lines)} of {len(lines)} within 3% or 0.4 us" in results_text()
    kernels = {name for provider in PROVIDERS if provider.name in ("vllm", "deepgemm") for name in provider.kernels}
    assert {line["kernel"] for line in lines} == kernels


@pytest.mark.parametrize(
    ("card", "said"), [("h200", "take {} of the time of one GPU on two"), ("h100", "and {} on two")]
)
def test_what_is_said_of_two_gpus_is_in_the_committed_records(card, said):
    said_of_results = results_text()
    lines = json_lines("two_gpus.jsonl", card)
    (walls,) = (line for line in lines if line["kind"] == "wall_time_s")
    beside = [line for line in lines if line["kind"] == "all beside each alone"]
    cells = sum(line["cells"] for line in beside)
    assert len(beside) == 2
    assert cells == sum(line["cells_within_1_percent"] for line in beside)
    assert not {"slower", "faster"} & {verdict for line in beside for verdict in line["verdicts"]}
    assert f"{said.format(format(walls['all'] / walls['one'], '.2f'))} {card.upper()}s" in said_of_results
    assert f"within 1% in each of {cells} cells" in said_of_results


Times = dict[str, dict[GemmShape, float]]


def results_text() -> str:
    """What results/README.md says, in one line."""
    return " ".join((ROOT / "results/README.md").read_text(encoding="utf-8").split())


def json_lines(name: str, card: str = "h200") -> list[dict]:
    return [json.loads(line) for line in (ROOT / "results" / card / name).read_text().splitlines()]


def cold_times(name: str) -> Times:
    """Medians of `time_cold_l2` by kernel and shape."""
    found: Times = {}
    for record in store.read(ROOT / f"results/h200/{name}.jsonl.gz").records:
        found.setdefault(record.kernel, {})[record.problem.shape] = median(record.samples["time_cold_l2"])
    return found


def over(times: Times, kernel: str, other: str) -> tuple[float, float]:
    """Geometric mean and maximum of the ratio of two kernels' times over the 35 shapes."""
    ratios = [seconds / times[other][shape] for shape, seconds in times[kernel].items()]
    assert len(ratios) == 35
    return geometric_mean(ratios), max(ratios)
