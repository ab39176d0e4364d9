"""Somebody else's provider, as a user has it: found, checked, timed and recorded; and a broken one, told of."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from conftest import ROOT, bare, environment

BASELINE = "pytorch_bf16_bf16_bf16_matmul-no-scales"
KERNEL = "acme_i8_i8_bf16_scaled_mm"
PAGE = ROOT / "docs/adding-a-provider.md"
SWEEP = ("--dtype", "int8", "--device", "cpu", "--rigor", "quick", "--out", "r.jsonl")
SQUARE = ("square_bench", "--dim-start", "32", "--dim-end", "32", "--dim-increment", "1")


def example() -> str:
    """The file that the documentation shows."""
    found = re.search(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None
    return found[1]


def install(site: Path, module: str, provider: str, body: str) -> None:
    """What pip leaves of a package of one module with an entry point."""
    site.mkdir(exist_ok=True)
    (site / f"{module}.py").write_text(body)
    info = site / f"{module}-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text(f"[w8a8_bench.providers]\n{provider} = {module}\n")


def run(where: Path, *words: str, site: Path | None = None, **variables: str) -> subprocess.CompletedProcess[str]:
    env = {**environment(), **variables}
    if site is not None:
        env["PYTHONPATH"] += f":{site}"
    return subprocess.run(
        [sys.executable, "-m", "w8a8_bench", *words], cwd=where, env=env, capture_output=True, text=True, timeout=120
    )


def records(where: Path) -> tuple[dict, dict[str, dict]]:
    """The header and the cells by kernel."""
    lines = [json.loads(line) for line in (where / "r.jsonl").read_text().splitlines()]
    return lines[0], {line["kernel"]: line for line in lines if line["kind"] == "cell"}


def test_an_installed_package_is_checked_timed_and_recorded_with_its_version(tmp_path):
    site = tmp_path / "site"
    body = example().replace('Probe.of("torch")', 'Probe.of("acme_w8a8")')
    install(site, "acme_w8a8", "acme", body)
    result = run(tmp_path, *SWEEP, "--kernels", BASELINE, KERNEL, *SQUARE, site=site)
    assert result.returncode == 0, result.stderr
    header, cells = records(tmp_path)
    assert header["environment"]["providers"]["acme"] == "1.2"
    cell = cells[KERNEL]
    assert (cell["status"], cell["provider"], cell["config"]) == ("ok", "acme", {"tile": "128x128"})
    assert len(cell["samples"]["time_host"]) >= 6
    assert 0 < cell["error"]["relative"] < 1e-2
    listed = run(tmp_path, "list", "kernels", site=site).stdout
    assert re.search(rf"^acme  \(from acme_w8a8 1\.2\)\n  {KERNEL} +--dtype int8$", listed, re.MULTILINE)


def test_the_short_file_of_the_page_returns_its_output(tmp_path):
    page = PAGE.read_text(encoding="utf-8")
    found = re.search(r"## What if my library returns its output\?\n.*?```python\n(.*?)```", page, re.DOTALL)
    assert found is not None and found[1].count("\n") <= 30
    (tmp_path / "acme.py").write_text(found[1])
    mine = {"W8A8_BENCH_PROVIDERS": "acme.py"}
    options = ("--schemes", "tensor-w-tensor-a", "channel-w-token-a", "--activations", "prequantized", "dynamic")
    result = run(tmp_path, *SWEEP, *options, "--providers", "acme", *SQUARE, **mine)
    assert result.returncode == 0, result.stderr
    lines = [json.loads(line) for line in (tmp_path / "r.jsonl").read_text().splitlines()]
    cells = [line for line in lines if line["kind"] == "cell" and line["kernel"] == KERNEL]
    assert {(cell["status"], cell["problem"]["activations"]) for cell in cells} == {
        ("ok", "prequantized"),
        ("unsupported", "dynamic"),
    }
    assert [cell["config"] for cell in cells if cell["status"] == "ok"] == [{"output": "returned"}] * 2


def test_a_wrong_answer_of_a_third_party_is_caught(tmp_path):
    install(tmp_path / "site", "acme", "acme", example().replace("* scale_a * scale_b", "* scale_a"))
    result = run(tmp_path, *SWEEP, "--providers", "acme", *SQUARE, site=tmp_path / "site")
    assert result.returncode == 3
    assert records(tmp_path)[1][KERNEL]["status"] == "incorrect"


def test_the_example_of_the_page_runs_as_one_file(tmp_path):
    (tmp_path / "acme.py").write_text(example())
    mine = {"W8A8_BENCH_PROVIDERS": "acme.py"}
    options = ("--schemes", "tensor-w-tensor-a", "channel-w-token-a", "--activations", "prequantized", "dynamic")
    result = run(tmp_path, *SWEEP, *options, "--providers", "acme", *SQUARE, **mine)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert len([line for line in lines if line.startswith(KERNEL)]) == 2, "prequantized under both schemes"
    assert f"did not run: {KERNEL}[dynamic] and 1 more: acme's kernels do not quantize" in lines
    listed = run(tmp_path, "list", "providers", **mine).stdout.splitlines()[-1]
    assert re.fullmatch(r"acme +\S+ +1  installed \(from acme\.py\)", listed)


def test_the_kernel_that_quantizes_on_the_page_is_right(tmp_path):
    found = re.search(r"a scale a token:\n\n```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None
    body = example().replace("Activations.PREQUANTIZED", "Activations.DYNAMIC")
    start, end = body.index("        def launch():"), body.index("        return Launches(launch)")
    (tmp_path / "acme.py").write_text(f"import torch\n{body[:start]}{found[1]}{body[end:]}")
    options = ("--schemes", "tensor-w-token-a", "channel-w-token-a", "--activations", "dynamic")
    result = run(tmp_path, *SWEEP, *options, "--providers", "acme", *SQUARE, W8A8_BENCH_PROVIDERS="acme.py")
    assert result.returncode == 0, result.stderr
    lines = [json.loads(line) for line in (tmp_path / "r.jsonl").read_text().splitlines()]
    dynamic = [line["status"] for line in lines if line.get("problem", {}).get("activations") == "dynamic"]
    assert dynamic == ["ok", "ok"]


def declaring(before: str = "", after: str = "") -> str:
    """The page's example, with the page's launches of a library that quantizes its own way; `after` for `before`."""
    found = re.search(
        r"other than the reference's:\n\n```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL
    )
    assert found is not None
    shown = textwrap.indent(found[1], " " * 8)
    assert before in shown
    body = example().replace("Activations.PREQUANTIZED", "Activations.DYNAMIC").replace("Launches,", "Codes, Launches,")
    return f"import torch\n{body[: body.index('        def launch():')]}{shown.replace(before, after)}"


def sweep_dynamic(where: Path, body: str) -> tuple[int, dict]:
    """The exit code of a sweep with the provider `body`, and the record of its dynamic cell."""
    (where / "acme.py").write_text(body)
    options = ("--schemes", "channel-w-token-a", "--activations", "dynamic", "--providers", "acme")
    result = run(where, *SWEEP, *options, *SQUARE, W8A8_BENCH_PROVIDERS="acme.py")
    lines = [json.loads(line) for line in (where / "r.jsonl").read_text().splitlines()]
    (cell,) = [line for line in lines if line.get("problem", {}).get("activations") == "dynamic"]
    return result.returncode, cell


def test_a_library_that_quantizes_its_own_way_is_judged_by_its_codes(tmp_path):
    code, cell = sweep_dynamic(tmp_path, declaring())
    assert (code, cell["status"], cell["reason"]) == (0, "ok", "")
    assert cell["config"]["quantization"] == "acme's own"
    assert 0 <= cell["config"]["codes_differing"] < 0.02
    assert {"time_host", "time_host_quant", "time_host_gemm"} <= set(cell["samples"])


@pytest.mark.parametrize(
    ("before", "after", "says"),
    [
        (".round())", ".trunc())", "^quantization: [0-9]+ of 1024 codes are not the nearest to A; first at row "),
        pytest.param(
            *("absmax / 127)", "absmax / 120)", "^quantization: 31 of 32 scales of A are too large; first at row 0"),
            marks=pytest.mark.slow,
        ),
        pytest.param("            quant()\n", "", "quantization: ", marks=pytest.mark.slow),
        ("scale * scale_b", "scale_b", r"elements wrong \(the answer without scale_a\)"),
    ],
    ids=["truncates", "scale too large", "does not quantize", "product"],
)
def test_wrong_codes_and_a_wrong_product_of_right_ones_are_told_apart(tmp_path, before, after, says):
    code, cell = sweep_dynamic(tmp_path, declaring(before, after))
    assert (code, cell["status"]) == (3, "incorrect")
    assert re.search(says, cell["reason"]), cell["reason"]
    assert cell["samples"] == {}


@pytest.mark.parametrize(
    "words",
    [
        pytest.param((), marks=pytest.mark.slow),
        pytest.param(("--providers", "acme", "pytorch"), marks=pytest.mark.slow),
        ("--kernels", BASELINE, KERNEL),
    ],
)
def test_a_package_that_cannot_be_imported_is_told_of_and_the_others_run(tmp_path, words):
    install(tmp_path / "site", "acme", "acme", "raise RuntimeError('built for CUDA 11')\n")
    result = run(tmp_path, *SWEEP, *words, *SQUARE, site=tmp_path / "site")
    assert result.returncode == 0, result.stderr
    assert "Traceback" not in result.stderr
    why = "RuntimeError: built for CUDA 11 (acme.py, line 1)"
    told = [line for line in result.stderr.splitlines() if line.startswith("acme ")]
    assert len(told) == 1 and told[0].endswith(why)
    header, cells = records(tmp_path)
    assert header["environment"]["providers"]["acme"] == why
    assert cells[BASELINE]["status"] == "ok"
    if KERNEL in words:
        assert (cells[KERNEL]["status"], cells[KERNEL]["reason"]) == ("unsupported", why)


def test_a_library_that_does_not_load_is_a_row_with_its_reason_and_doctor_says_so(tmp_path):
    body = example().replace("import torch ", "raise ImportError('undefined symbol: acme_mm')  ")
    install(tmp_path / "site", "acme", "acme", body)
    result = run(tmp_path, *SWEEP, "--kernels", BASELINE, KERNEL, *SQUARE, site=tmp_path / "site")
    assert result.returncode == 0, result.stderr
    _, cells = records(tmp_path)
    assert [cells[name]["status"] for name in (BASELINE, KERNEL)] == ["ok", "unsupported"]
    assert "does not load: ImportError: undefined symbol: acme_mm" in cells[KERNEL]["reason"]
    doctor = run(tmp_path, "doctor", "--device", "cpu", site=tmp_path / "site")
    assert doctor.returncode == 0, doctor.stderr
    assert re.search(r"^acme +- +0 of 1 +acme \S+ does not load: ", doctor.stdout, re.MULTILINE), doctor.stdout
    assert re.search(
        r"undefined symbol: acme_mm \(acme.py, line \d+\) \(from acme 1\.", " ".join(doctor.stdout.split())
    )
    assert max(map(len, doctor.stdout.splitlines())) <= 120


@pytest.mark.slow
def test_what_to_go_on_with_names_the_file_of_the_provider(tmp_path):
    interrupt = "__import__('os').kill(__import__('os').getppid(), 2)"
    (tmp_path / "acme.py").write_text(example().replace("out.copy_", f"{interrupt}\n            out.copy_"))
    result = run(tmp_path, *SWEEP, "--providers", "acme", *SQUARE, W8A8_BENCH_PROVIDERS="acme.py")
    assert result.returncode == 130
    assert "interrupted: 0 of 1 shapes" in result.stderr
    assert not (tmp_path / "r.pkl").exists(), "nothing was measured, so there is nothing to pickle"
    (command,) = re.findall("go on with: (.*)", result.stderr)
    assert "W8A8_BENCH_PROVIDERS=acme.py" in command
    (tmp_path / "acme.py").write_text(example())
    shell = subprocess.run(["sh", "-c", command], cwd=tmp_path, env=bare(), capture_output=True, text=True, timeout=120)
    assert shell.returncode == 0, shell.stderr
    assert records(tmp_path)[1][KERNEL]["status"] == "ok"


def test_what_lies_in_the_working_directory_is_not_imported_for_what_is_installed(tmp_path):
    install(tmp_path / "site", "acme", "acme", example())
    for name in ("acme", "random"):
        (tmp_path / f"{name}.py").write_text("raise RuntimeError('of the working directory')")
    env = {**environment(), "PYTHONSAFEPATH": "1"}  # of the console script, which has no working directory on its path
    env["PYTHONPATH"] += f":{tmp_path / 'site'}"
    words = [
        sys.executable,
        "-c",
        "from w8a8_bench.cli.main import main; main()",
        *SWEEP,
        "--kernels",
        BASELINE,
        KERNEL,
    ]
    result = subprocess.run([*words, *SQUARE], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120)
    assert "of the working directory" not in result.stderr
    assert {cell["status"] for cell in records(tmp_path)[1].values()} == {"ok"}


@pytest.mark.parametrize("words", [("--providers", "acme", "pytorch"), ("--kernels", BASELINE, KERNEL)])
def test_a_file_that_is_no_provider_is_bad_input_where_it_is_asked_for(tmp_path, words):
    (tmp_path / "acme.py").write_text("KERNELS = ('acme_i8_mm',)")
    result = run(tmp_path, *SWEEP, *words, *SQUARE, W8A8_BENCH_PROVIDERS="acme.py")
    assert result.returncode == 2
    assert "acme (from acme.py) can't be used: kernel name 'acme_i8_mm'" in result.stderr
    assert not (tmp_path / "r.jsonl").exists()


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("torch._int_mm)", "tortch._int_mm)", "NameError: name 'tortch' is not defined"),
        ("Probe.of(", "Prob.of(", "NameError: name 'Prob' is not defined"),
        ("return Probe.of", "Probe.of", "probe() gave None: expected a Probe"),
    ],
    ids=["kernel", "probe", "no Probe"],
)
def test_a_mistake_is_a_fault_with_its_line_in_the_table_and_on_standard_error(tmp_path, old, new, says):
    (tmp_path / "acme.py").write_text(example().replace(old, new))
    result = run(tmp_path, *SWEEP, "--providers", "acme", *SQUARE, W8A8_BENCH_PROVIDERS="acme.py")
    assert result.returncode == 3
    (cell,) = records(tmp_path)[1].values()
    assert cell["status"] == "failed"
    assert re.match(rf"{re.escape(says)}.* \(acme\.py, line \d+\)$", cell["reason"])
    assert f"failed: {KERNEL} at m=32 n=32 k=32: {cell['reason']}" in result.stderr


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("return Support.yes()", "import os; os._exit(0)", "the worker ended with exit code 0"),
        pytest.param(
            *("return Support.yes()", "raise SystemExit(0)", "SystemExit: 0 (acme.py, line "), marks=pytest.mark.slow
        ),
        (
            "return ScaledMm(name, torch._int_mm)",
            "return None",
            "kernel() gave None: expected an object",
        ),
        pytest.param(
            *("return Support.yes()", "return {}['tile']", "KeyError: 'tile' (acme.py, line "), marks=pytest.mark.slow
        ),
    ],
)
def test_doctor_says_what_is_wrong_with_a_kernel_and_goes_on(tmp_path, old, new, says):
    assert old in example()
    (tmp_path / "acme.py").write_text(example().replace(old, new))
    result = run(tmp_path, "doctor", "--device", "cpu", W8A8_BENCH_PROVIDERS="acme.py")
    assert result.returncode == 0, result.stderr
    table = result.stdout.partition("\nprovider ")[2].partition("\n\n")[0]
    row = " ".join(table.partition("\nacme ")[2].split())  # it may take several lines
    assert f"0 of 1 {says}" in row


@pytest.fixture
def broken_off(tmp_path):
    """A sweep with a provider's file, interrupted before its second shape; the file, mended so that it runs on."""
    interrupt = "import os; m == 33 and os.kill(os.getppid(), 2)"
    file = tmp_path / "acme.py"
    file.write_text(example().replace("def launch():", f"m = a.shape[0]; {interrupt}\n\n        def launch():"))
    square = ("square_bench", "--dim-start", "32", "--dim-end", "33", "--dim-increment", "1")
    words = (*SWEEP, "--kernels", BASELINE, KERNEL, *square)
    assert run(tmp_path, *words, W8A8_BENCH_PROVIDERS="acme.py").returncode == 130
    assert len(records(tmp_path)[1]) == 2
    return lambda: run(tmp_path, *words, "--resume", W8A8_BENCH_PROVIDERS="acme.py")


def test_a_provider_that_was_edited_meanwhile_is_told_of_when_a_sweep_is_resumed(tmp_path, broken_off):
    (tmp_path / "acme.py").write_text(example())
    result = broken_off()
    assert result.returncode == 0, result.stderr
    told = [line for line in result.stderr.splitlines() if line.startswith("resumed under other conditions")]
    assert len(told) == 1 and re.search(r"provider_sources\.acme was [0-9a-f]{16} and is [0-9a-f]{16}", told[0])


@pytest.mark.slow
def test_an_edit_after_the_last_shape_is_told_of_too(tmp_path):
    (tmp_path / "acme.py").write_text(example().replace("* scale_a * scale_b", "* scale_a"))
    words = (*SWEEP, "--kernels", KERNEL, *SQUARE)
    assert run(tmp_path, *words, W8A8_BENCH_PROVIDERS="acme.py").returncode == 3
    (tmp_path / "acme.py").write_text(example())
    result = run(tmp_path, *words, "--resume", W8A8_BENCH_PROVIDERS="acme.py")
    assert result.returncode == 3
    told = [line for line in result.stderr.splitlines() if line.startswith("resumed under other conditions")]
    assert len(told) == 1
    assert "provider_sources.acme was" in told[0]
    assert told[0].endswith("; nothing is left to measure: name another --out")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda file: file.unlink(), "there is no file acme.py"),
        (
            lambda file: file.write_text("raise ImportError('libgone')"),
            "acme can't be used any more, and r.jsonl is not done",
        ),
    ],
    ids=["removed", "broken"],
)
def test_a_sweep_is_not_resumed_without_a_provider_that_it_had(tmp_path, broken_off, change, says):
    before = (tmp_path / "r.jsonl").read_bytes()
    change(tmp_path / "acme.py")
    result = broken_off()
    assert result.returncode == 2
    assert says in result.stderr
    assert (tmp_path / "r.jsonl").read_bytes() == before
