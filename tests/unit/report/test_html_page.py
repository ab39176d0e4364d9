"""The page: every number in it is the records', and no text of a record is anything but text."""

from __future__ import annotations

import itertools
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from copies import replace
from made_results import HEADER, changed, end, in_file, record
from made_sweep import LAYERS, large_sweep, made_sweep

from w8a8_bench import stats
from w8a8_bench.analysis import metrics, roofline
from w8a8_bench.analysis.metrics import prequantized_twin
from w8a8_bench.cli import report
from w8a8_bench.cli.main import main
from w8a8_bench.kernel import Status
from w8a8_bench.problem import work
from w8a8_bench.problem.kernel_name import BASELINE
from w8a8_bench.report import html, scriptless
from w8a8_bench.report.cliffs import find_cliffs
from w8a8_bench.report.comparable_runs import make_sets
from w8a8_bench.results import json_lines
from w8a8_bench.results.json_lines import Results
from w8a8_bench.text import format_time

ROOT = Path(__file__).resolve().parents[3]
H200 = ROOT / "results/h200/llama2_7b_28_shapes_run1.jsonl.gz"
EVIL = "<script>alert(1)</script>"


def page_data(page: str) -> dict:
    (text,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    return json.loads(text)


@pytest.fixture(scope="module", params=["made", "h200"])
def shown(request) -> tuple[list, dict]:
    """Records as read, by comparison, and the one set of their page."""
    results = made_sweep(LAYERS[:2], tokens=(1, 17, 64)) if request.param == "made" else json_lines.read(H200)
    (one,) = page_data(html.render(make_sets([results])))["sets"]
    return [list(group) for _, group in itertools.groupby(results.records, key=lambda r: r.comparison)], one


def agrees(shown: float | None, true: float | None) -> bool:
    """Whether a number is shown as what it is to every number of digits up to five."""
    if shown is None or true is None:
        return shown is None and true is None
    return all(f"{shown:.{digits}e}" == f"{true:.{digits}e}" for digits in range(5))


def test_every_time_ratio_and_limit_is_the_records(shown) -> None:
    groups, one = shown
    row = -1
    device = make_sets([json_lines.read(H200)])[0].device if len(groups) == 28 else None
    for group in groups:
        baseline = next(r for r in group if r.kernel == BASELINE)
        for r in group:
            row += 1
            for measure in one["times"]:
                numbers = {name: values[row] for name, values in one["times"][measure].items()}
                if r.status is not Status.OK or measure not in r.samples:
                    assert set(numbers.values()) == {None}
                    continue
                samples = r.samples[measure]
                assert agrees(numbers["seconds"], stats.estimate(samples))
                assert format_time(numbers["seconds"]) == format_time(stats.estimate(samples))
                if measure.endswith(("_quant", "_gemm")):
                    continue
                low, high = stats.interval(samples)
                assert agrees(numbers["seconds_low"], low) and agrees(numbers["seconds_high"], high)
                assert agrees(numbers["half_width"], stats.half_width(samples))
                assert agrees(numbers["tflops"], work.tflops(r.problem, stats.estimate(samples)))
                speedup = metrics.speedup(r, baseline, measure)
                assert agrees(numbers["speedup"], speedup.median)
                assert agrees(numbers["speedup_low"], speedup.interval[0])
                assert agrees(numbers["speedup_high"], speedup.interval[1])
                if device:
                    limit = roofline.roofline(r, measure, device)
                    assert agrees(numbers["percent_of_peak"], limit.of_peak)
                    assert agrees(numbers["percent_of_reads"], limit.of_reads)
                    assert agrees(numbers["clock_mhz"], stats.median(r.clock_mhz[measure]))
                twin = prequantized_twin(r, group)
                cost = metrics.quantization_cost(r, twin, measure) if twin else None
                assert agrees(numbers.get("quantization_cost_seconds"), cost.median if cost else None)
                assert agrees(numbers.get("quantization_cost_seconds_low"), cost.interval[0] if cost else None)
                assert agrees(numbers.get("quantization_cost_seconds_high"), cost.interval[1] if cost else None)
    assert row + 1 == len(one["rows"]["kernel"])


def test_every_cell_is_there_with_its_kernel_place_status_reason_and_error(shown) -> None:
    groups, one = shown
    columns = one["rows"]
    for row, r in enumerate(r for group in groups for r in group):
        kernel = one["kernels"][columns["kernel"][row]]
        place = columns["comparison"][row]
        sizes = tuple(one["comparisons"][size][place] for size in ("m", "n", "k"))
        assert (kernel["text"], kernel["provider"]) == (r.text, r.provider)
        assert sizes == (r.problem.shape.m, r.problem.shape.n, r.problem.shape.k)
        assert one["comparisons"]["layers"][one["comparisons"]["layer"][place]]["name"] == r.labels["layer"]
        assert one["statuses"][columns["status"][row]] == r.status.value
        assert one["reasons"][columns["reason"][row]] == r.reason
        assert one["flags"][columns["flags"][row]] == ", ".join(r.flags)
        assert agrees(columns["error"][row], r.error["relative"] if r.error else None)
        assert agrees(columns["intensity"][row], work.flops(r.problem) / work.bytes_moved(r.problem))
        for name, values in one["sqnr"].items():
            assert agrees(values[row], r.scheme_sqnr_db.get(name))


def test_noise_floors_and_cliffs_are_the_records() -> None:
    results = json_lines.read(H200)
    (one,) = page_data(html.render(make_sets([results])))["sets"]
    for number, comparison_end in enumerate(results.ends):
        own = [r for r in results.records if r.comparison == comparison_end.index]
        floor = metrics.noise_floor(comparison_end, own, "time_cold_l2")
        assert agrees(one["comparisons"]["noise"][number], floor.median)
        assert agrees(one["comparisons"]["noise_low"][number], floor.interval[0])
    cliffs = find_cliffs(results.records)
    assert len(cliffs) == len(one["cliffs"]["row"])
    for number, cliff in enumerate(cliffs):
        assert results.records[one["cliffs"]["row"][number]] == cliff.record
        assert results.records[one["cliffs"]["padded"][number]] == cliff.padded
        assert agrees(one["cliffs"]["ratio"][number], cliff.ratio.median)


def test_a_cliff_is_within_one_gpu() -> None:
    """Two GPUs that are pooled on request may differ by more than a cliff does."""
    results = made_sweep(LAYERS[:1], tokens=(16, 17, 32))
    far = [replace(r, device="GPU-2" if r.problem.shape.m == 32 else "GPU-1") for r in results.records]
    found = [
        page_data(html.render(make_sets([changed(results, records)], pool_gpus=True)))["sets"][0]["cliffs"]
        for records in (results.records, far)
    ]
    assert found[0]["row"]
    assert found[1]["row"] == []


def rounded(value: float) -> float:
    return html._short(value)


@pytest.mark.parametrize("value", [1.2344999999, 1.2345000001, 0.123449999999, 1.00005, 123455.00001, 9.999995])
def test_rounding_twice_is_rounding_once(value) -> None:
    assert agrees(rounded(value), value)


def test_numbers_that_json_lacks_are_text() -> None:
    assert [rounded(value) for value in (float("inf"), float("nan"), None, 3)] == ["inf", "nan", None, 3]


def evil_results() -> Results:
    """Every text of a record that its writer chooses."""
    base = record(BASELINE, *[1e-5] * 12, labels={"layer": EVIL, "model": EVIL, EVIL: EVIL})
    named = replace(base, kernel=EVIL, provider=EVIL, config={EVIL: EVIL}, flags=(EVIL,), scheme_sqnr_db={EVIL: 30.0})
    failed = replace(base, kernel=f"{EVIL}2", status=Status.FAILED, reason=f"{EVIL}\n<!-- </script>", error=None)
    header = replace(
        HEADER,
        command=("w8a8-bench", EVIL),
        time=EVIL,
        environment={EVIL: EVIL, "torch": EVIL},
        device={"name": EVIL, "uuid": EVIL},
        plan={"rigor": EVIL},
        settings={"data": EVIL},
    )
    records = (base, named, failed)
    closed = replace(end(records), machine={"telemetry": f"unavailable: {EVIL}"})
    return in_file(records, [closed], header, [f"torn {EVIL}"], f"{EVIL}.jsonl".replace("/", ""))


class Elements(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.scripts: list[str] = []
        self.sources: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag, attrs) -> None:
        self.sources += [value for name, value in attrs if name in ("src", "href", "srcset", "action") and value]
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data) -> None:
        if self.lasttag == "script":
            self.scripts[-1] += data


def test_text_of_records_can_not_leave_the_data() -> None:
    page = html.render(make_sets([evil_results()]))
    assert "alert(1)" in page
    assert EVIL not in page
    elements = Elements(page)
    assert len(elements.scripts) == 2, "the data and the program"
    assert page_data(page)["sets"][0]["kernels"][1]["text"] == EVIL
    assert "alert" not in elements.scripts[1]


def test_the_page_loads_nothing_and_runs_only_its_own_script() -> None:
    page = html.render(make_sets([evil_results()]))
    assert Elements(page).sources == ["data:,"]
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page).group(1)
    assert re.fullmatch(
        r"default-src 'none'; style-src 'sha256-[\w+/=]+'; script-src 'sha256-[\w+/=]+'; img-src data:", policy
    )
    assert "url(" not in page and "@import" not in page


def test_nothing_in_the_program_makes_markup_of_text() -> None:
    scripts = "".join((Path(html.__file__).parent / "page" / name).read_text() for name in html.SCRIPTS)
    for word in (
        "innerHTML",
        "outerHTML",
        "insertAdjacentHTML",
        "document.write",
        "eval(",
        "new Function",
        "setAttribute('on",
    ):
        assert word not in scripts


def test_marks_of_the_page_in_a_record_are_left_as_they_are() -> None:
    odd = replace(evil_results(), warnings=("@@script@@ @@style@@",))
    assert page_data(html.render(make_sets([odd])))["sets"][0]["warnings"] == ["@@script@@ @@style@@"]


def test_sets_of_other_gpus_are_apart_in_the_page() -> None:
    sets = make_sets([made_sweep(LAYERS[:1], (1,)), made_sweep(LAYERS[1:2], (1,), uuid="GPU-5")])
    one, other = page_data(html.render(sets))["sets"]
    assert {*one["comparisons"]["n"]} == {6144}
    assert {*other["comparisons"]["n"]} == {4096}


def test_a_set_of_several_files_and_days_names_them() -> None:
    first, second = made_sweep(LAYERS[:1], (1,)), made_sweep(LAYERS[1:2], (1,))
    (alone,) = page_data(html.render(make_sets([first])))["sets"]
    assert alone["mixed"] == ""
    comparisons = tuple(
        replace(one, run=replace(one.run, time="2026-11-03T08:00:00+00:00")) for one in second.comparisons
    )
    later = replace(second, headers=(comparisons[0].run,), comparisons=comparisons, path=Path("later.jsonl"))
    (both,) = page_data(html.render(make_sets([first, later])))["sets"]
    days = f"2026-11-03, {first.headers[0].time[:10]}"
    assert both["mixed"] == f"Mixed: 2 files ({first.path.name}, later.jsonl), measured on 2 days ({days})."


def test_a_set_without_a_time_is_shown_beside_others() -> None:
    failed = replace(record(BASELINE), status=Status.FAILED, reason="broken", error=None)
    other = in_file([failed], [end([failed])], path="failed.jsonl")
    sets = page_data(html.render(make_sets([made_sweep(LAYERS[:1], (1,)), other])))["sets"]
    assert sets[1]["measures"] == [] and sets[1]["times"] == {}
    assert sets[1]["reasons"] == ["broken"]


def test_twenty_thousand_records_are_under_ten_megabytes() -> None:
    """A tenth of them, of the same digits and as many measures, in a tenth of that."""
    page = html.render(make_sets([large_sweep(2_000)]))
    (one,) = page_data(page)["sets"]
    assert len(page.encode()) < 10e6 / 20_000 * len(one["rows"]["kernel"])


def test_an_installed_package_has_the_files_of_the_page() -> None:
    tomllib = pytest.importorskip("tomllib", reason="Python 3.11 or newer")
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["w8a8_bench"]
    package = ROOT / "src/w8a8_bench"
    packed = {path.name for pattern in patterns for path in package.glob(pattern)}
    parts = {"page.html", *html.STYLES, *html.SCRIPTS, scriptless.STYLE}
    assert parts <= packed
    assert {path.name for path in (package / "report/page").iterdir()} == parts


def test_a_name_without_a_format_of_its_own_is_refused_unless_one_is_asked_for(tmp_path, capsys) -> None:
    assert main(["report", str(H200), "-o", str(tmp_path / "r.pdf")]) == 2
    assert capsys.readouterr().err.endswith(
        "r.pdf: no format goes with .pdf: expected one of .html, .htm, .md, .csv, .txt, or add --format\n"
    )
    assert main(["report", str(H200), "-o", str(tmp_path / "r.pdf"), "--format", "markdown"]) == 0


def test_a_page_that_nobody_could_read_is_refused_and_csv_is_not(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(report, "MOST_CELLS_OF_A_PAGE", 279)
    assert main(["report", str(H200), "-o", str(tmp_path / "r.html")]) == 2
    assert "280 cells: a page with more than 279" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
    assert main(["report", str(H200), "-o", str(tmp_path / "r.csv")]) == 0
