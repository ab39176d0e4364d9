"""What `report` writes of a made-up sweep, as it stands in the files beside this one, and what it refuses.

After a change that is meant, write them anew with `UPDATE_GOLDEN=1 python -m pytest tests/golden`, and read the diff.
"""

from __future__ import annotations

import csv
import gzip
import io
from pathlib import Path

import pytest
from conftest import ROOT
from copies import replace
from made_results import end, in_file, record
from made_sweep import LAYERS, header, lines, made_sweep
from test_cli_output import assert_golden

from w8a8_bench import stats
from w8a8_bench.kernel import Status
from w8a8_bench.problem.kernel_name import BASELINE
from w8a8_bench.report import REPORTS, markdown
from w8a8_bench.report.comparable_runs import make_sets
from w8a8_bench.results import json_lines
from w8a8_bench.results.json_lines import Results

FP8 = "pytorch_fp8_fp8_bf16_scaled_mm"


def write(path: Path, results: Results) -> str:
    path.write_text("".join(f"{line}\n" for line in lines(results)))
    return path.name


@pytest.fixture
def made(tmp_path) -> str:
    """A results file in the directory that `cli_here` runs in."""
    return write(tmp_path / "made.jsonl", made_sweep(LAYERS[:2], tokens=(1, 17, 64)))


@pytest.mark.parametrize("format_", ["markdown", "csv", "table"])
def test_text_reports_read_as_recorded(cli_here, tmp_path, made, format_):
    result = cli_here("report", made, "--format", format_)
    assert (result.returncode, result.stderr) == (0, "")
    assert_golden(f"report_{format_}", result.stdout)
    assert [path.name for path in tmp_path.iterdir()] == [made]


def test_help_reads_as_recorded(cli_here):
    assert_golden("help_report", cli_here("report", "--help").stdout)


@pytest.mark.parametrize(
    ("name", "begins"),
    [("a.html", "<!doctype html>"), ("a.md", "## W8A8"), ("a.csv", "device,uuid"), ("a.txt", "m=1 n=")],
)
def test_the_name_of_the_output_says_its_format(cli_here, tmp_path, made, name, begins):
    result = cli_here("report", made, "-o", name)
    assert (result.returncode, result.stdout, result.stderr) == (0, f"{name}: 84 cells\n", "")
    assert (tmp_path / name).read_text().startswith(begins)


def test_without_a_name_the_page_is_report_html_and_is_written_anew(cli_here, tmp_path, made):
    (tmp_path / "report.html").write_text("old")
    assert cli_here("report", made).stdout == "report.html: 84 cells\n"
    page = (tmp_path / "report.html").read_text()
    assert page.startswith("<!doctype html>") and page.endswith("</html>")
    assert sorted(path.name for path in tmp_path.iterdir()) == [made, "report.html"]


def test_a_link_goes_on_pointing_where_it_did(cli_here, tmp_path, made):
    (tmp_path / "kept").mkdir()
    (tmp_path / "latest.html").symlink_to(tmp_path / "kept/report.html")
    assert cli_here("report", made, "-o", "latest.html").returncode == 0
    assert (tmp_path / "latest.html").is_symlink()
    assert (tmp_path / "kept/report.html").read_text().startswith("<!doctype html>")


def test_gzipped_files_and_files_of_several_gpus_are_read_together(cli_here, tmp_path, made):
    other = "".join(f"{line}\n" for line in lines(made_sweep(LAYERS[2:3], tokens=(1,), uuid="GPU-9")))
    (tmp_path / "other.jsonl.gz").write_bytes(gzip.compress(other.encode()))
    result = cli_here("report", made, "other.jsonl.gz", "-o", "both.html")
    assert result.stdout == "both.html: 98 cells in 2 sets, which are kept apart\n"
    pooled = cli_here("report", made, "other.jsonl.gz", "--pool-gpus", "-o", "both.html")
    assert pooled.stdout == "both.html: 98 cells\n"


def test_a_file_that_is_named_twice_is_read_once(cli_here, made):
    assert cli_here("report", made, f"./{made}", "-o", "r.html").stdout == "r.html: 84 cells\n"


def test_a_directory_stands_for_the_results_in_it(cli_here, tmp_path, made):
    other = "".join(f"{line}\n" for line in lines(made_sweep(LAYERS[2:3], tokens=(1,))))
    (tmp_path / "other.jsonl.gz").write_bytes(gzip.compress(other.encode()))
    (tmp_path / "notes.txt").write_text("not looked at")
    result = cli_here("report", ".", "-o", "r.html")
    assert (result.returncode, result.stdout, result.stderr) == (0, "r.html: 98 cells\n", "")
    assert cli_here("report", made, ".", "./other.jsonl.gz", "-o", "r.html").stdout == "r.html: 98 cells\n"


def test_the_committed_directory_is_read_and_the_tables_in_it_are_named_in_one_warning(cli_here):
    result = cli_here("report", str(ROOT / "results/h200"), "--format", "csv")
    (warning,) = result.stderr.splitlines()
    assert result.returncode == 0
    assert warning.startswith("warning: left out, not results of a sweep: cliffs.jsonl, doctor_timing.jsonl, ")
    assert warning.endswith(f"triton_blockwise.jsonl, two_gpus.jsonl in {ROOT / 'results/h200'}")
    assert ".gz" not in warning, "every compressed file there is a sweep's"


def test_a_kernel_without_any_baseline_beside_it_is_named_by_its_time_alone(cli_here):
    """Of the committed files some have comparisons without bf16."""
    result = cli_here("report", str(ROOT / "results/h200"), "--format", "markdown")
    assert (result.returncode, result.stdout[:7]) == (0, "## W8A8")


def test_what_was_left_out_of_a_torn_file_is_said_on_stderr_and_in_the_report(cli_here, tmp_path, made):
    whole = (tmp_path / made).read_text()
    (tmp_path / made).write_text(whole[: len(whole) - 500])
    result = cli_here("report", made, "--format", "markdown")
    assert result.returncode == 0
    said = result.stderr.splitlines()
    assert said and all(line.startswith("warning: ") for line in said)
    assert all(line.removeprefix("warning: ") in result.stdout for line in said)


def only(status: Status) -> Results:
    records = (replace(record(FP8), status=status, reason="needs sm_89", error=None),)
    return in_file(records, [end(records)], header())


def test_a_markdown_report_of_many_sizes_shows_some_and_says_so(cli_here, tmp_path):
    write(
        tmp_path / "cliffs.jsonl", made_sweep(LAYERS[:1], tokens=(*range(1, 18), 31, 32, 33, 63, 64, 65, 127, 128, 129))
    )
    text = cli_here("report", "cliffs.jsonl", "--format", "markdown").stdout
    titles = [line for line in text.splitlines() if line.startswith(("|  | kernel", "| layer"))]
    assert [line.split(" | ")[-1] for line in titles] == ["all |", "129 |"]
    assert all("| 1 | 2 | 4 | 8 | 16 | 32 | 64 | 128 | 129 |" in line for line in titles)
    assert "9 of 26 sizes are shown; `--format html` and `--format csv` have all." in text
    folded = [line for line in text.partition("<details>")[2].splitlines() if line.startswith("| kernel |")]
    assert [line.count("|") - 2 for line in folded] == [12, 12, 2]


REFUSALS = {
    "no_file": ("report",),
    "missing": ("report", "nowhere.jsonl"),
    "directory_without_results": ("report", "empty"),
    "directory_of_other_files": ("report", "other"),
    "pickle": ("report", "old.pkl"),
    "corrupt": ("report", "corrupt.jsonl"),
    "empty": ("report", "empty.jsonl"),
    "no_comparison": ("report", "begun.jsonl"),
    "out_is_a_directory": ("report", "made.jsonl", "-o", "."),
    "out_is_empty": ("report", "made.jsonl", "-o", ""),
    "out_is_an_input": ("report", "made.jsonl", "-o", "link.html"),
    "out_is_a_name_of_results": ("report", "made.jsonl", "-o", "other.jsonl"),
    "out_in_no_directory": ("report", "made.jsonl", "-o", "nowhere/report.html"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_bad_input_is_one_clear_line_and_writes_nothing(cli_here, tmp_path, made, name):
    (tmp_path / "old.pkl").write_bytes(b"\x80\x04.")
    (tmp_path / "corrupt.jsonl").write_text((tmp_path / made).read_text().replace('"status": "ok"', '"status": "fine"'))
    (tmp_path / "empty.jsonl").touch()
    (tmp_path / "begun.jsonl").write_text((tmp_path / made).read_text().partition("\n")[0] + "\n")
    (tmp_path / "link.html").symlink_to(tmp_path / made)
    (tmp_path / "empty/below").mkdir(parents=True)
    (tmp_path / "empty/below/made.jsonl").write_text((tmp_path / made).read_text())
    (tmp_path / "other").mkdir()
    (tmp_path / "other/table.jsonl").write_text('{"kernel": "x", "time_s": 1e-6}\n')
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    result = cli_here(*REFUSALS[name])
    assert (result.returncode, result.stdout) == (2, "")
    assert len(result.stderr.splitlines()) == 1, result.stderr
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert_golden(f"error_report_{name}", result.stderr)


@pytest.mark.parametrize("format_", sorted(REPORTS))
def test_where_nothing_ran_the_report_says_why(cli_here, tmp_path, format_):
    write(tmp_path / "failed.jsonl", only(Status.UNSUPPORTED))
    result = cli_here("report", "failed.jsonl", "--format", format_, "-o", "-")
    assert (result.returncode, result.stderr) == (0, "")
    assert "needs sm_89" in result.stdout and "unsupported" in result.stdout


def test_an_output_that_can_not_be_written_is_one_clear_line(cli_here, made):
    result = cli_here("report", made, "-o", "/proc/report.html")
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("w8a8-bench: error: --out /proc/report.html can't be written: ")
    assert len(result.stderr.splitlines()) == 1


def test_csv_has_every_digit_of_every_time(tmp_path, made):
    results = json_lines.read(tmp_path / made)
    rows = list(csv.DictReader(io.StringIO(REPORTS["csv"](make_sets([results])))))
    assert len(rows) == len(results.records)
    for row, r in zip(rows, results.records, strict=True):
        assert (row["kernel"], row["status"], row["reason"]) == (r.kernel, r.status.value, r.reason)
        assert tuple(int(row[size]) for size in "mnk") == (r.problem.shape.m, r.problem.shape.n, r.problem.shape.k)
        if r.status is Status.OK:
            low, high = stats.interval(r.samples["time_cold_l2"])
            assert float(row["time_cold_l2_seconds"]) == stats.median(r.samples["time_cold_l2"])
            assert (float(row["time_cold_l2_seconds_low"]), float(row["time_cold_l2_seconds_high"])) == (low, high)
        else:
            assert not any(value for name, value in row.items() if name.startswith("time_"))


def test_markdown_fits_a_comment_and_says_what_it_leaves_out(monkeypatch):
    assert markdown.MOST_CHARACTERS < 65_536, "what GitHub takes"
    results = made_sweep(LAYERS[:2], tokens=(1, 17, 64))
    whole = REPORTS["markdown"](make_sets([results]))
    assert "<details>" in whole and "left out" not in whole
    monkeypatch.setattr(markdown, "MOST_CHARACTERS", len(whole) - 1)
    shorter = REPORTS["markdown"](make_sets([results]))
    assert "The times of all cells are left out, for length" in shorter and "<details>" not in shorter
    assert shorter.startswith(whole.partition("<details>")[0])
    monkeypatch.setattr(markdown, "MOST_CHARACTERS", 1_000)
    cut = REPORTS["markdown"](make_sets([results]))
    assert len(cut) < 1_100 and "Cut off here" in cut


@pytest.mark.parametrize("evil", ["<script>alert(1)</script>", "a|b", "`tick`", "@team #1", "two\nlines", "**bold**"])
def test_text_of_records_is_no_markdown(evil):
    base = record(BASELINE, *[1e-5] * 12, labels={"layer": evil})
    failed = replace(base, kernel=evil, status=Status.FAILED, reason=evil, error=None)
    results = in_file([base, failed], [end([base, failed])], header(name=evil), [evil])
    text = REPORTS["markdown"](make_sets([results]))
    outside = "".join(text.replace("\\|", "").replace("`` `tick` ``", "").split("`")[::2])
    assert evil.replace("\n", " ") not in outside
    assert "alert" not in outside and "@team" not in outside
    tables = [line for line in text.splitlines() if line.startswith("|")]
    assert {line.replace("\\|", "").count("|") for line in tables if line.startswith("| failed")} == {5}
