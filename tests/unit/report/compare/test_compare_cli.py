"""`compare` as users meet it: what it prints, what it refuses, and its exit codes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from xml.etree import ElementTree

import pytest
from copies import replace
from made_results import HEADER, end, record

from w8a8_bench.cli.main import main
from w8a8_bench.kernel import Status
from w8a8_bench.problem import GemmShape
from w8a8_bench.problem.kernel_name import BASELINE
from w8a8_bench.report.compare.conditions import ChangedCondition, anchored
from w8a8_bench.results.json_lines import Writer
from w8a8_bench.results.record import Record, RunHeader

ROOT = Path(__file__).resolve().parents[4]
GOLDEN = ROOT / "tests/golden"
COLD = "time_cold_l2"
FP8, FP16, INT8 = (
    "pytorch_fp8_fp8_bf16_scaled_mm",
    "pytorch_fp16_fp16_fp16_matmul-no-scales",
    "pytorch_i8_i8_bf16_scaled_mm",
)
GPU = {"kind": "cuda", "name": "NVIDIA H200", "uuid": "GPU-1"}
RUN = replace(
    HEADER,
    device=GPU,
    environment={"torch": "2.11.0+cu130", "torch_cuda": "13.0", "driver": "580.1", "git_revision": "0" * 40},
    plan={"rigor": "standard", "processes": 1},
    settings={"timer": "graph", "data": "normal", "seed": 0, "duty": 0.5, "measures": [COLD]},
    resumed=False,
)
WOBBLE = (0.999, 1.0, 1.001, 1.0005, 0.9995, 1.0002, 0.9998, 1.0, 1.0001, 0.9999)


def cell(kernel: str, index: int, seconds: float | None, **changes) -> Record:
    samples = {COLD: tuple(seconds * w for w in WOBBLE)} if seconds else {}
    clocks = {COLD: (1815.0,) * len(WOBBLE)} if seconds else {}
    shape = GemmShape(m=16, n=4096, k=4096 * (index + 1))
    return record(kernel, comparison=index, shape=shape, samples=samples, clock_mhz=clocks, **changes)


def write(path: str, shapes: Sequence[Sequence[Record]], *headers: RunHeader) -> str:
    with Writer(path, resume=False) as writer:
        for header in headers or (RUN,):
            writer.write_header(header)
        for records in shapes:
            close = replace(end(records), duplicate={}, machine={})
            writer.append(records, close)
    return path


@pytest.fixture
def run(tmp_path, monkeypatch, capsys) -> Callable[..., tuple[int, str, str]]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("w8a8_bench.cli.interrupt.install", lambda: None)

    def compare(*words: str) -> tuple[int, str, str]:
        code = main(["compare", *words])
        said = capsys.readouterr()
        return code, said.out, said.err

    return compare


def some(fp8: float = 5e-6, **changes) -> list[list[Record]]:
    labels = {"model": "a/model", "layer": "o_proj", "tp": 1}
    return [
        [
            cell(BASELINE, index, 1e-5, labels=labels),
            cell(FP16, index, 1.01e-5, labels=labels),
            cell(FP8, index, fp8 * (index + 1), labels=labels, **changes),
        ]
        for index in range(2)
    ]


def test_the_same_run_is_the_same(run) -> None:
    base, new = write("base.jsonl", some()), write("new.jsonl", some())
    code, out, err = run(base, new)
    assert (code, err) == (0, "")
    assert out.startswith(f"0 slower, 0 faster, 6 same, 0 inconclusive of 6 cells by {COLD}; new/base 1.0000x (")
    assert "o_proj" not in out
    assert out.count("1.0000x") == 4
    listed = run(base, new, "--all")[1]
    assert listed.count(" same") >= 6 and "o_proj" in listed


def test_what_is_slower_is_listed_and_the_exit_code_is_1(run) -> None:
    base, new = write("base.jsonl", some()), write("new.jsonl", some(5.15e-6))
    code, out, _ = run(base, new)
    assert code == 1
    assert "; 2 slower by more than 1%, the worst 1.0300x" in out.splitlines()[0]
    assert "1.0300x" in next(line for line in out.splitlines() if line.startswith(FP8) and "slower" in line)
    assert run(new, base)[0] == 0
    assert run(base, new, "--threshold", "5")[0] == 0
    assert run(base, new, "--threshold", "2.9")[0] == 1


def changed() -> tuple[list[list[Record]], list[list[Record]]]:
    """Every kind of line that there is, and text that would break a table."""
    odd = {"layer": "<b>|`x`\x1b[31m\n@all"}
    base, new = some(), some(5.2e-6)
    base[1] += [cell(INT8, 1, None, status=Status.UNSUPPORTED, reason="not here")]
    new[1] += [cell(INT8, 1, None, status=Status.UNSUPPORTED, reason="not here")]
    base[0] += [cell(INT8, 0, 7e-6, labels=odd)]
    new[0] += [cell(INT8, 0, None, labels=odd, status=Status.INCORRECT, reason="row 3\n\x1b]0;x\x07 | wrong")]
    base[1] += [cell("triton_i8_i8_bf16_scaled_mm", 1, 7e-6)]
    new[1] += [cell("cutlass_i8_i8_bf16_scaled_mm", 1, 7e-6)]
    new[0][1] = replace(
        new[0][1], flags=("power_capped",), samples={COLD: tuple(1e-5 * (1 + 0.03 * i) for i in range(10))}
    )
    return base, new


@pytest.mark.parametrize("form", ["text", "markdown"])
def test_output_reads_as_recorded(run, form) -> None:
    base, new = changed()
    later = replace(RUN, time="2026-11-02T08:00:00+00:00", environment={**RUN.environment, "git_revision": "f" * 40})
    code, out, err = run(write("base.jsonl", base), write("new.jsonl", new, later), "--format", form)
    assert (code, err) == (1, "")
    path = GOLDEN / f"compare_{form}.txt"
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(out, encoding="utf-8")
    assert out == path.read_text(encoding="utf-8")
    assert all(line.isprintable() for line in out.splitlines())


def test_markdown_shows_text_of_records_as_text(run) -> None:
    base, new = changed()
    _, out, _ = run(write("base.jsonl", base), write("new.jsonl", new), "--format", "markdown", "--all")
    tables = [line for line in out.splitlines() if line.startswith("|")]
    assert tables
    assert "<b>" not in out and "@all" not in out and "&#60;b&#62;\\|" in out
    assert {line.replace("\\|", "").count("|") for line in tables} <= {7, 9, 10}
    assert out.startswith("**") and "worse in status" in out.splitlines()[0]


def test_a_kernel_of_another_maker_is_compared_and_shown_as_text(run) -> None:
    odd = "`x` | <b> @all\x1b[31m\nspoof"
    base, new = some(), some()
    for runs, seconds in ((base, 7e-6), (new, 8e-6)):
        runs[0].append(replace(cell(INT8, 0, seconds), kernel=odd))
    code, out, _ = run(write("base.jsonl", base), write("new.jsonl", new))
    assert code == 1
    assert all(line.isprintable() for line in out.splitlines())
    assert sum("<b> @all" in line for line in out.splitlines()) == 2
    _, out, _ = run("base.jsonl", "new.jsonl", "--format", "markdown")
    assert out.count("\\`x\\` \\| &#60;b&#62; &#64;all") == 2


def header(**changes) -> RunHeader:
    """A run under other conditions: `device`, or a field of `settings`, `plan` or the environment."""
    made = RUN
    for name, value in changes.items():
        if name == "device":
            made = replace(made, device={**made.device, **value})
        else:
            where = "settings" if name in made.settings else "plan" if name in made.plan else "environment"
            made = replace(made, **{where: {**getattr(made, where), name: value}})
    return made


REFUSED = {
    "gpu": ({"device": {"name": "NVIDIA H100"}}, "device NVIDIA H200 -> NVIDIA H100"),
    "card": ({"device": {"uuid": "GPU-2"}}, "card GPU-1 -> GPU-2"),
    "data": ({"data": "zeros"}, "data normal -> zeros"),
    "seed": ({"seed": 1}, "seed 0 -> 1"),
    "timer": ({"timer": "event"}, "timer graph -> event"),
    "duty": ({"duty": 1.0}, "duty 0.5 -> 1.0"),
    "measures": ({"measures": [COLD, "time_kernel"]}, f"measures {COLD} -> {COLD} time_kernel"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_comparable_is_refused_and_says_what_differs(run, name) -> None:
    changes, said = REFUSED[name]
    base, new = write("base.jsonl", some()), write("new.jsonl", some(), header(**changes))
    code, out, err = run(base, new)
    assert (code, out) == (2, "")
    assert (
        err == f"w8a8-bench: error: base.jsonl and new.jsonl are not comparable: {said}; --force compares them anyway\n"
    )
    code, out, err = run(base, new, "--force")
    assert (code, err) == (0, "")
    assert f"warning: --force compares what is not alike: {said}" in out


def test_everything_that_is_not_alike_is_named_at_once(run) -> None:
    base = write("base.jsonl", some())
    new = write("new.jsonl", some(), header(data="zeros", device={"name": "NVIDIA H100", "uuid": "GPU-2"}))
    assert "card GPU-1 -> GPU-2; device NVIDIA H200 -> NVIDIA H100; data normal -> zeros;" in run(base, new)[2]


@pytest.mark.parametrize(
    ("changes", "same_code"),
    [
        ({"torch": "2.12.0"}, False),
        ({"driver": "590.1"}, False),
        ({"git_revision": "1" * 40}, True),
        ({"rigor": "publish"}, True),
        ({"triton": "3.7"}, True),
    ],
)
def test_versions_are_what_one_compares_they_are_listed(run, changes, same_code) -> None:
    base, new = write("base.jsonl", some()), write("new.jsonl", some(), header(**changes))
    code, out, _ = run(base, new)
    assert code == 0
    ((name, value),) = changes.items()
    assert f"not the same: {name} " in out and f" -> {value}" in out
    assert ("the 16-bit baselines are other work in both runs" in out) is not same_code


def test_shapes_on_another_card_of_the_same_kind_are_not_judged_and_where_all_are_they_are_refused(run) -> None:
    two = [[replace(one, device="GPU-1") for one in some()[0]], [replace(one, device="GPU-2") for one in some()[1]]]
    other = [two[0], [replace(one, device="GPU-1") for one in some()[1]]]
    base, new = write("base.jsonl", two), write("new.jsonl", other)
    code, out, _ = run(base, new)
    assert code == 0
    assert "not the same: card of 1 of 2 shapes one -> another" in out
    assert "1 of 2 shapes were on another card, and are not judged" in out
    crossed = [[replace(one, device=other) for one in of] for of, other in zip(two, ("GPU-2", "GPU-1"), strict=True)]
    assert "card of 2 of 2 shapes one -> another" in run(base, write("crossed.jsonl", crossed))[2]
    assert run(base, write("again.jsonl", two))[0] == 0


def test_a_run_that_was_resumed_elsewhere_has_both_conditions(run) -> None:
    base = write("base.jsonl", some())
    new = write("new.jsonl", some(), RUN, replace(header(torch="2.12.0"), resumed=True))
    _, out, _ = run(base, new)
    assert "torch 2.11.0+cu130 -> 2.11.0+cu130, 2.12.0" in out
    assert "resumed 1x" in out


def test_files_without_a_timer_are_of_the_hosts(run) -> None:
    """Schema 1 had no other."""
    old = replace(RUN, settings={"seed": 0, "data": "normal"}, schema=1)
    code, _, err = run(write("base.jsonl", some(), old), write("new.jsonl", some()))
    assert code == 2
    assert f"timer host -> graph; measures time_host -> {COLD}; duty unknown -> 0.5" in err
    assert run(write("old.jsonl", some(), old), "base.jsonl")[0] == 0


def test_what_tells_of_the_machine_stands_below_the_tables(run) -> None:
    moved = [
        [replace(one, samples={COLD: tuple(1.05 * s for s in one.samples[COLD])}) for one in ones] for ones in some()
    ]
    moved = [[replace(one, clock_mhz={COLD: (1700.0,) * len(WOBBLE)}) for one in ones] for ones in moved]
    code, out, _ = run(write("base.jsonl", some()), write("new.jsonl", moved))
    assert code == 0
    assert "took 1.0500x to 1.0500x as long at 2 of 2 shapes: the machine changed there" in out
    assert "SM clock: 1815 MHz in base, 1700 MHz in new (median)" in out
    alone = [[ones[2]] for ones in some()]
    _, out, _ = run("base.jsonl", write("alone.jsonl", alone))
    assert "at 2 of 2 shapes other cells were timed beside or before these" in out
    assert "2 of 2 shapes have no 16-bit baseline" in run("alone.jsonl", "alone.jsonl")[1]


def test_strangers_on_the_gpu_are_warned_of(run) -> None:
    base = write("base.jsonl", some())
    with Writer("new.jsonl", resume=False) as writer:
        writer.write_header(RUN)
        for records in some():
            writer.append(records, replace(end(records), duplicate={}, machine={"other_processes": 2}))
    assert "warning: other processes were on the GPU at 2 of 2 shapes of new" in run(base, "new.jsonl")[1]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("gone.jsonl", "base.jsonl"), "gone.jsonl can't be read: No such file or directory"),
        (("base.jsonl", "."), ". can't be read: Is a directory"),
        (("base.jsonl", "text.txt"), "text.txt is no results file of w8a8-bench: its first line is no run header"),
        (("base.jsonl", "other.jsonl"), "no cell is in both files"),
        (("base.jsonl", "base.jsonl", "--threshold", "-1"), "--threshold -1: expected a percentage of 0 or more"),
        (("base.jsonl", "base.jsonl", "--threshold", "nan"), "--threshold nan: expected a percentage"),
        (("base.jsonl",), "the following arguments are required: NEW.jsonl"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(run, words, said) -> None:
    write("base.jsonl", some())
    write("other.jsonl", [[cell(INT8, 0, 1e-5)]])
    Path("text.txt").write_text("mine\n")
    code, out, err = run(*words)
    assert (code, out) == (2, "")
    assert said in err and len(err.splitlines()) == 1


def test_what_was_left_out_of_a_file_is_warned_of(run) -> None:
    base, new = write("base.jsonl", some()), write("new.jsonl", some())
    data = Path(new).read_bytes()
    Path(new).write_bytes(data[:-40])
    code, out, err = run(base, new)
    assert code == 0
    assert "the last line is torn and left out" in err and "3 records" in err
    assert "only in base: 3 cells" in out


def test_a_large_file_says_that_it_is_being_read(run, monkeypatch) -> None:
    monkeypatch.setattr("w8a8_bench.cli.results.LARGE_BYTES", 1000)
    assert "reading base.jsonl: 0 MB\n" in run(write("base.jsonl", some()), "base.jsonl")[2]


def test_comparing_needs_no_torch(tmp_path) -> None:
    path = write(str(tmp_path / "base.jsonl"), some())
    code = (
        "import sys; sys.modules['torch'] = sys.modules['numpy'] = None\n"
        f"from w8a8_bench.cli.main import main; sys.exit(main(['compare', {path!r}, {path!r}]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_only_what_makes_baselines_other_work_unties_them() -> None:
    assert anchored([])
    assert anchored(
        [ChangedCondition("git_revision", "a", "b", refused=False), ChangedCondition("card", "a", "b", refused=True)]
    )
    assert not anchored([ChangedCondition("power_limit_w", "700", "500", refused=False)])


def relabelled(shapes: list[list[Record]], **labels) -> list[list[Record]]:
    """With other labels, those of None left out."""
    return [
        [
            replace(one, labels={name: v for name, v in {**one.labels, **labels}.items() if v is not None})
            for one in records
        ]
        for records in shapes
    ]


@pytest.mark.parametrize("labels", [{"count": 32}, {"layer": None}, {"count": 32, "layer": None}])
def test_a_label_that_one_file_alone_has_parts_no_cells(run, labels) -> None:
    code, out, _ = run(write("base.jsonl", some()), write("new.jsonl", relabelled(some(), **labels)))
    assert code == 0
    assert out.startswith("0 slower, 0 faster, 6 same, 0 inconclusive of 6 cells")
    assert f"labels that one file alone has part no cells: {', '.join(sorted(labels))}" in out


def test_cells_that_differ_in_labels_alone_are_paired_if_there_is_one_of_each(run) -> None:
    code, out, _ = run(write("base.jsonl", some()), write("new.jsonl", relabelled(some(), model="its/revision")))
    assert code == 0
    assert "6 same" in out.splitlines()[0]
    assert "6 cells are paired by kernel, shape and scheme although labels differ" in out


def test_of_equal_cells_labels_say_which_is_which(run) -> None:
    """Two layers of one shape, in another order in the new file; one of them is slower there."""
    one, other = some()[0], relabelled(some()[:1], layer="down_proj")[0]
    other = [replace(record, comparison=1) for record in other]
    slow = [
        replace(record, comparison=0, samples={COLD: tuple(1.1 * s for s in record.samples[COLD])}) for record in one
    ]
    base = write("base.jsonl", [one, other])
    new = write("new.jsonl", [[replace(record, comparison=0) for record in other], slow], RUN)
    _, out, _ = run(base, new, "--all", "--force")
    slower = [line for line in out.splitlines() if line.startswith(FP8) and "1.1000x" in line]
    assert len(slower) == 1, out


def test_what_no_cells_have_in_common_is_named(run) -> None:
    shapes = some()
    other = [[replace(one, kernel=INT8) for one in records[2:]] for records in shapes]
    code, _, err = run(write("base.jsonl", [records[2:] for records in shapes]), write("new.jsonl", other))
    assert code == 2
    assert err.endswith(f"no cell is in both files: kernel is {FP8} in one and {INT8} in the other\n")


def scaled(shapes: list[list[Record]], factor: float) -> list[list[Record]]:
    return [
        [replace(one, samples={COLD: tuple(factor * s for s in one.samples[COLD])}) for one in records]
        for records in shapes
    ]


@pytest.mark.parametrize("factor", [1.3, 0.7, 100.0])
def test_runs_whose_baselines_all_moved_are_not_compared(run, factor) -> None:
    base, new = write("base.jsonl", some()), write("new.jsonl", scaled(some(), factor))
    code, out, err = run(base, new)
    assert (code, out) == (2, "")
    assert f"the 16-bit baselines took {factor:.4g}x as long, so the machine changed" in err
    assert "--force" in err
    code, out, _ = run(base, new, "--force")
    assert code == 0
    assert "the machine changed" in out.splitlines()[0] and "too few samples" not in out


def test_a_kernel_that_is_slower_over_all_its_cells_is_a_failure_though_no_cell_alone_is(run) -> None:
    """Samples so noisy that 30% in one cell may be chance; in 24 cells it is not."""
    wild = (0.7, 1.4, 0.9, 1.2, 0.8, 1.3, 1.0, 1.1, 0.75, 1.25)

    def noisy(factor: float) -> list[list[Record]]:
        shapes = []
        for index in range(24):
            records = [cell(BASELINE, index, 1e-5), cell(FP8, index, 5e-6)]
            records[1] = replace(records[1], samples={COLD: tuple(5e-6 * factor * w for w in wild)})
            shapes.append(records)
        return shapes

    base, new = write("base.jsonl", noisy(1.0)), write("new.jsonl", noisy(1.3))
    code, out, _ = run(base, new)
    assert "0 slower" in out.splitlines()[0] and "1 kernel slower over all cells" in out.splitlines()[0]
    assert code == 1


def test_json_holds_every_cell_and_junit_fails_for_what_is_slower(run) -> None:
    base, new = write("base.jsonl", some()), write("new.jsonl", some(fp8=6e-6))
    code, out, _ = run(base, new, "--format", "json")
    found = json.loads(out)
    assert code == 1
    assert found["summary"].startswith("2 slower")
    assert [cell["verdict"] for cell in found["cells"] if cell["kernel"] == FP8] == ["slower"] * 2
    assert len(found["cells"]) == 6
    assert found["kernels"][FP8]["ratio"] == pytest.approx(1.2, abs=1e-3)
    code, out, _ = run(base, new, "--format", "junit")
    assert code == 1
    suites = {suite.get("name"): suite for suite in ElementTree.fromstring(out)}
    assert suites[FP8].get("failures") == "3", "two cells, and the kernel over all of them"
    assert suites[BASELINE].get("failures") == "0"
    code, out, _ = run(base, write("part.jsonl", some()[:1]), "--require-all", "--format", "junit")
    assert code == 1
    missing = [one for one in ElementTree.fromstring(out).iter("failure") if one.get("message") == "only in base"]
    assert len(missing) == 3, "each cell of the shape that is missing is one case"
    assert suites[FP8].find("testcase/failure").get("message").startswith("slower: 5.000 us to 6.000 us")


def test_several_bases_are_one_and_all_are_named(run) -> None:
    bases = [write(f"base{number}.jsonl", some()) for number in (1, 2, 3)]
    new = write("new.jsonl", some(fp8=6e-6))
    code, out, _ = run(*bases, new)
    assert code == 1
    assert out.splitlines()[0].startswith("2 slower")
    sides = [line.split()[:2] for line in out.splitlines() if line.startswith(("base ", "new "))]
    assert sides == [["base", "base1.jsonl"], ["base", "base2.jsonl"], ["base", "base3.jsonl"], ["new", "new.jsonl"]]
    found = json.loads(run(*bases, new, "--format", "json")[1])
    assert (found["base"], found["more_bases"], found["new"]) == (bases[0], bases[1:], new)
    assert json.loads(run(bases[0], new, "--format", "json")[1])["more_bases"] == []


def test_bases_that_do_not_belong_together_are_one_line(run) -> None:
    base, other = write("base.jsonl", some()), write("other.jsonl", some()[:1])
    new, seed = write("new.jsonl", some()), write("seed.jsonl", some(), header(seed=1))
    for words, says in (
        ((base, other, new), "other.jsonl and base.jsonl are bases with other cells"),
        ((base, base, new), "base.jsonl, base.jsonl and new.jsonl: a file is named twice"),
        ((base, new, new), "a file is named twice"),
        ((base, seed, new), "seed 0, 1 -> 0"),
    ):
        code, out, err = run(*words)
        assert (code, out, len(err.splitlines())) == (2, "", 1)
        assert says in err


def test_cells_that_the_new_run_lacks_stand_in_the_headline_and_may_be_required(run) -> None:
    base = write("base.jsonl", some())
    new = write("new.jsonl", some())
    data = Path(new).read_bytes()
    Path(new).write_bytes(data[:-40])
    for format_ in ("text", "markdown"):
        code, out, _ = run(base, new, "--format", format_)
        assert code == 0
        assert "3 cells of base are not in new" in out.splitlines()[0]
        assert "the last line is torn and left out" in out
    assert run(base, new, "--require-all")[0] == 1
    assert run(base, base, "--require-all")[0] == 0


def test_files_without_a_cell_in_both_are_not_compared(run) -> None:
    base = write("base.jsonl", [[cell("pytorch_i8_i8_bf16_scaled_mm", 0, 1e-5)]])
    new = write("new.jsonl", [[cell("pytorch_fp8_fp8_bf16_scaled_mm", 0, 1e-5)]])
    code, out, errors = run(base, new)
    assert (code, out, len(errors.splitlines())) == (2, "", 1)
