"""The house in order: documents that name what exists, modules that say what they are, one version, pins that agree."""

from __future__ import annotations

import ast
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from string import Template

import pytest

import w8a8_bench
from w8a8_bench.cli import main
from w8a8_bench.cli.errors import UsageError
from w8a8_bench.cli.sweep_request import make_request
from w8a8_bench.kernel import FAULTS
from w8a8_bench.results import json_lines
from w8a8_bench.stats import median

ROOT = Path(__file__).resolve().parents[3]
PACKAGE = ROOT / "src" / "w8a8_bench"
PAGES = tuple(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md")))
DOCUMENTS = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "results/README.md", *PAGES)
FOR_USERS = ("README.md", *PAGES)
SOURCE_DIRECTORIES = ("src", "tests", "scripts", "benchmarks")
MAX_LINES = 600

FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
INLINE_CODE = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"\]\(([^)\s]+)\)")
PATH = re.compile(r"[\w.-]+(/[\w.-]+)*/?")
SOURCE_SUFFIXES = (".py", ".md", ".toml", ".txt", ".cfg", ".ini", ".yml", ".yaml")
RESULT_SUFFIXES = (".jsonl", ".json", ".csv", ".pkl", ".html", ".png", ".svg")

PROGRAM, SCRIPT = "w8a8-bench", "benchmarks/cutlass_benchmarks/w8a8_benchmarks.py"
OF_OTHER_PROGRAMS = ("--index-url", "--shapes", "--linear-backend", "--fp8-gemm-backend")
"""Options that a document names without the program that they belong to: pip's, that of scripts/peers_table.py, vLLM's,
and SGLang's.
"""


def sources() -> list[Path]:
    return sorted(path for name in SOURCE_DIRECTORIES for path in (ROOT / name).rglob("*.py"))


def links(text: str) -> Iterator[tuple[str, str]]:
    """The relative links in a document: the file, empty for the document itself, and the heading, empty for none."""
    for target in LINK.findall(FENCE.sub("", text)):
        if not re.match(r"[a-z]+:", target):
            path, _, heading = target.partition("#")
            yield path, heading


def headings(text: str) -> set[str]:
    """The headings of a document, as links name them."""
    titles = re.findall(r"^#+ (.*)$", FENCE.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}


def leads_somewhere(document: Path, path: str, heading: str) -> bool:
    target = document.parent / path if path else document
    return target.exists() and (not heading or heading in headings(target.read_text(encoding="utf-8")))


def commands(text: str) -> Iterator[list[str]]:
    """This program's commands in the fenced blocks of a document, each as the words after the program's name.

    What follows `||` is another command. Slurm's number of a job in an array is 2.
    """
    text = Template(text).safe_substitute(SLURM_ARRAY_TASK_ID="2")
    for fence in FENCE.findall(text):
        for line in fence.replace("\\\n", " ").splitlines():
            for program in (PROGRAM, f"python3 {SCRIPT}"):
                if line.startswith(f"{program} "):
                    yield shlex.split(line.removeprefix(program).partition(" || ")[0], comments=True)


def options(text: str) -> Iterator[tuple[str, str]]:
    """The options of this program in a document's inline code, each with its command: empty if any may have it."""
    known = main._parser(PROGRAM).commands
    for code in INLINE_CODE.findall(FENCE.sub("", text)):
        first, *others = code.removeprefix(f"{PROGRAM} ").split()
        if first in known or first.startswith("--"):
            command = first if first in known else ""
            yield from ((word.partition("=")[0], command) for word in (first, *others) if word.startswith("--"))


def known_options(command: str) -> set[str]:
    """The options of one command; of all if it is empty."""
    of = main._parser(PROGRAM).commands
    parsers = [of[command]] if command else of.values()
    return {option for parser in parsers for action in parser._actions for option in action.option_strings}


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
            if top == "results" and not word.startswith(("results/h200/", "results/h100/", "results/calibration/")):
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
    assert [name for name in named_paths(text) if not exists(name)] == []


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_to_a_file_and_to_a_heading_in_it(document: str) -> None:
    path = ROOT / document
    assert [link for link in links(path.read_text()) if not leads_somewhere(path, *link)] == []


@pytest.mark.parametrize("document", FOR_USERS)
def test_commands_are_ones_that_the_program_takes(document: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of those that measure also the names of kernels, schemes and models, and the shapes."""
    monkeypatch.chdir(ROOT)
    for words in commands((ROOT / document).read_text()):
        parser = main._parser(PROGRAM)
        args = parser.parse_args(main._arrange(words, parser))
        example = "acme" in (getattr(args, "providers", None) or ())  # of docs/adding-a-provider.md
        if args.command.endswith("_bench") and not example:
            make_request(args)


@pytest.mark.parametrize("document", FOR_USERS)
def test_options_are_ones_that_the_command_has(document: str) -> None:
    named = [one for one in options((ROOT / document).read_text()) if one[0] not in OF_OTHER_PROGRAMS]
    assert [(option, command) for option, command in named if option not in known_options(command)] == []


def test_the_search_for_paths_sees_them_and_leaves_the_rest() -> None:
    text = """
    See `src/w8a8_bench/gone.py`, [the guide](docs/gone.md#how) and [a page](https://example.org/x.md).
    Not paths: `TFLOP/s`, `int8/fp8`, `cutlass_i8_i8_bf16_scaled_mm`, `mine.jsonl`, `results/main.jsonl`, `{a}/{b}.py`.

```
python3 benchmarks/gone.py --out mine.jsonl
```
    """
    assert sorted(named_paths(text)) == ["benchmarks/gone.py", "src/w8a8_bench/gone.py"]
    assert list(links(text)) == [("docs/gone.md", "how")]
    assert not exists("src/w8a8_bench/gone.py")
    assert exists("setup_env.py")


def test_a_wrong_link_command_or_option_is_seen(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# A page\n\n## What is `it`, here?\n\n```\n# no heading\n```\n")
    assert leads_somewhere(page, "", "what-is-it-here")
    assert not leads_somewhere(page, "page.md", "no-heading")
    assert not leads_somewhere(page, "gone.md", "")
    text = f"""
`compare --threshold 3`, `w8a8-bench doctor --device=cpu`, `--no-report`, `pip install --no-deps .`

```
w8a8-bench --dtype int8 square_bench \\
    --dim-strat 64 || [ $? -eq 3 ]  # a comment
python3 {SCRIPT} list kernels
```
"""
    assert list(options(text)) == [("--threshold", "compare"), ("--device", "doctor"), ("--no-report", "")]
    assert "--threshold" not in known_options("doctor")
    wrong, right = commands(text)
    parser = main._parser(PROGRAM)
    assert parser.parse_args(main._arrange(right, parser)).what == "kernels"
    with pytest.raises(UsageError, match="--dim-strat"):
        parser.parse_args(main._arrange(wrong, parser))


def test_every_module_says_what_it_is() -> None:
    silent = [str(path.relative_to(ROOT)) for path in PACKAGE.rglob("*.py") if not ast.get_docstring(_parsed(path))]
    assert silent == []


def _parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), filename=str(path))


def test_no_file_outgrows_its_readers() -> None:
    files = [*sources(), ROOT / "Makefile", *(ROOT / name for name in DOCUMENTS)]
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in files}
    assert {name: length for name, length in lengths.items() if length > MAX_LINES} == {}


def test_the_readme_stays_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 200, "move the rest to docs/"


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


LIBRARIES = [f"results/h200/{name}_35_shapes.jsonl.gz" for name in ("schemes", "libraries")]


def test_the_tables_of_the_readme_are_made_from_committed_records():
    command = [sys.executable, "scripts/peers_table.py", *LIBRARIES]
    made = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    shown = made.strip().split("\n\n")[:3]
    assert ["scales per channel and token" in part or "blocks" in part for part in shown] == [True] * 3
    assert "\n\n".join(shown) in (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_recommendation_of_the_readme_is_that_of_committed_records(monkeypatch, capsys):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    first, command = re.findall(r"^w8a8-bench (recommend .*--min-sqnr .*)$", readme, re.MULTILINE)
    assert first == command, "the quick start and the example are one command"
    monkeypatch.chdir(ROOT)
    assert main.main(shlex.split(command)) == 0
    out = capsys.readouterr().out
    verdict = next(line for line in out.splitlines() if line.startswith("**One scheme"))
    schemes = out.partition("## One scheme for all layers\n")[2].partition("\n\n## ")[0]
    rows = "\n".join(line for line in schemes.splitlines() if line.startswith("|"))
    assert rows in readme
    scheme, speed = verdict.strip("*").removeprefix("One scheme for all layers and every m: ").split(",")[:2]
    assert f"It answers {scheme},{speed.split()[0].rjust(6)}" in readme
    assert main.main([*shlex.split(command)[:-2]]) == 0
    int8 = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| int8")]
    one, per_channel = ([cell.strip() for cell in line.split("|")[3:6]] for line in int8)
    least = min(line.split("|")[5].strip() for line in rows.splitlines() if line.startswith("| fp8"))
    said = f"INT8 would be at {one[0].split()[0]}, but on activations with outliers its SQNR is {one[2]} with one scale"
    said += f" and {per_channel[2]} with scales per channel and token, while FP8 has {least} or more."
    assert said in " ".join(readme.split())


@pytest.mark.parametrize("numbers", [(1, 2), (3, 4)])
def test_two_committed_sweeps_of_the_same_cells_agree(numbers):
    """What CHANGELOG.md says of them: medians of two runs are within 1% of each other in every cell."""
    runs = [json_lines.read(ROOT / f"results/h200/llama2_7b_28_shapes_run{number}.jsonl.gz") for number in numbers]
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
        results = json_lines.read(path)
        assert results.warnings == ()
        assert len(results.ends) == results.headers[0].plan["comparisons"]
        assert not [record for record in results.records if record.status in FAULTS]
