"""The page as a reader has it: in a browser, filtered, sorted and pointed at. What it says is what the records say."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from copies import replace
from made_results import END, HEADER, changed, end, in_file, record
from made_sweep import LAYERS, made_sweep
from open_page import Page, start, why_not

from w8a8_bench import stats
from w8a8_bench.analysis import metrics
from w8a8_bench.kernel import Status
from w8a8_bench.problem import work
from w8a8_bench.problem.kernel_name import BASELINE
from w8a8_bench.report import table
from w8a8_bench.report.cliffs import find_cliffs
from w8a8_bench.report.comparable_runs import make_sets
from w8a8_bench.report.summary import geometric_mean, summarize
from w8a8_bench.results import json_lines
from w8a8_bench.results.json_lines import Results
from w8a8_bench.text import format_time

ROOT = Path(__file__).resolve().parents[2]
COLD, HOT = "time_cold_l2", "time_hot_l2"
FP8 = "pytorch_fp8_fp8_bf16_scaled_mm"
EVIL = "<script>alert(1)</script>"
NOTHING = "–"


if why := why_not():
    pytest.skip(why, allow_module_level=True)


@pytest.fixture(scope="module")
def browser(tmp_path_factory) -> Iterator[Any]:
    driver = start(tmp_path_factory.mktemp("chromium"))
    yield driver
    driver.quit()


@pytest.fixture
def page(browser, tmp_path) -> Page:
    return Page(browser, tmp_path / "report.html")


@pytest.fixture(scope="module")
def h200() -> Results:
    return json_lines.read(ROOT / "results/h200/llama2_7b_28_shapes_run1.jsonl.gz")


@pytest.fixture(scope="module")
def made() -> Results:
    return made_sweep(LAYERS[:2], tokens=(1, 17, 64))


def text_rows(results: Results) -> list[tuple[str, ...]]:
    """Kernel and numbers of every cell as the text table writes them, which puts cells of a scheme together."""
    device = make_sets([results])[0].device
    rows = []
    for line in table.render(results.records, [], device).splitlines():
        words = line.replace("unsettled", "").split()
        if words and words[0] not in ("kernel", "--") and not words[0].startswith("m="):
            kernel, number, unit, half, mhz, tflops, limit, _, speedup, error = words[:10]
            rows.append((kernel, f"{number} {unit}", half, mhz, tflops, limit, speedup, error))
    return rows


def page_rows(rows) -> list[tuple[str, ...]]:
    columns = (COLD, "±95%", "MHz", "TFLOP/s", "of limit", "vs bf16", "error")
    return [(without_badge(row["kernel"]), *(row[column] for column in columns)) for row in rows]


def without_badge(text: str) -> str:
    """A kernel's name behind its letter."""
    return text.lstrip("ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789") if not text.startswith("<") else text


def test_all_cells_read_as_in_the_text_table(page, h200) -> None:
    page.open([h200])
    rows = page.whole_table("#cells")
    assert len(rows) == 280
    assert Counter(page_rows(rows)) == Counter(text_rows(h200))


def test_filtered_cells_are_those_of_the_layer_and_size(page, h200) -> None:
    page.open([h200])
    page.choose("layer", "o_proj n=4096 k=4096")
    page.choose("x", "16")
    page.choose("scheme", "channel-w-token-a")
    wanted = [
        r
        for r in h200.records
        if (r.problem.shape.m, r.problem.shape.n, r.problem.shape.k) == (16, 4096, 4096)
        and r.problem.scaling
        and r.problem.scaling.name == "channel-w-token-a"
    ]
    rows = page.table("#cells")
    assert len(wanted) == 4
    expected = [(r.text, format_time(stats.median(r.samples[COLD]))) for r in wanted]
    assert [(without_badge(row["kernel"]), row[COLD]) for row in rows] == expected
    page.choose("scheme", "all")
    assert len(page.table("#cells")) == 10


@pytest.mark.parametrize(
    ("name", "option", "keeps"),
    [
        ("format", "int8", lambda r: r.problem.format.value == "int8"),
        ("provider", "cutlass", lambda r: r.provider == "cutlass"),
        ("activations", "dynamic", lambda r: r.problem.activations.value == "dynamic"),
        ("scheme", "block-w-group-a", lambda r: r.problem.scaling and r.problem.scaling.is_blockwise),
        ("x", "17", lambda r: r.problem.shape.m == 17),
        ("layer", "o_proj n=4096 k=4096", lambda r: r.labels["layer"] == "o_proj"),
    ],
)
def test_every_filter_keeps_its_cells_and_no_other(page, made, name, option, keeps) -> None:
    page.open([made])
    assert option in page.options(name)
    page.choose(name, option)
    shown = [(without_badge(row["kernel"]), row["m"], row["n"], row["status"]) for row in page.whole_table("#cells")]
    wanted = [r for r in made.records if keeps(r)]
    assert shown == [(r.text, str(r.problem.shape.m), str(r.problem.shape.n), r.status.value) for r in wanted]


def test_another_measure_brings_its_own_numbers(page, made) -> None:
    page.open([made])
    page.choose("measure", HOT)
    rows = page.whole_table("#cells")
    times = [format_time(stats.median(r.samples[HOT])) if r.status is Status.OK else NOTHING for r in made.records]
    assert [row[HOT] for row in rows] == times
    baselines = {r.comparison: r for r in made.records if r.kernel == BASELINE}
    ratios = [metrics.speedup(r, baselines[r.comparison], HOT) for r in made.records]
    assert [row["vs bf16"] for row in rows] == [f"{ratio.median:.2f}x" if ratio else NOTHING for ratio in ratios]


@pytest.mark.parametrize("which", ["h200", "made"])
def test_speedups_by_kernel_and_size_are_the_geometric_means(page, which, request) -> None:
    results = request.getfixturevalue(which)
    summary = summarize(make_sets([results])[0])
    page.open([results])
    rows = page.table("#speedup")
    assert [row[f"kernel \\ {summary.axis}"] for row in rows] == [one.letter + one.text for one in summary.standings]
    for row, one in zip(rows, summary.standings, strict=True):
        for size in summary.sizes:
            expected = f"{geometric_mean(one.speeds[size]):.2f}x" if size in one.speeds else NOTHING
            assert row[str(size)] == expected
        assert row["all"].split()[0] == f"{geometric_mean(one.every):.2f}x"
        assert ("of" in row["all"]) == (len(one.every) < summary.shapes)


def test_speedups_of_one_layer_are_those_of_its_own_cells(page, h200) -> None:
    page.open([h200])
    page.choose("layer", "down_proj n=4096 k=11008")
    (row,) = [row for row in page.table("#speedup") if without_badge(row["kernel \\ m"]) == FP8]
    for r in h200.records:
        if r.labels["layer"] == "down_proj" and r.text == FP8:
            baseline = next(b for b in h200.records if b.comparison == r.comparison and b.kernel == BASELINE)
            assert row[str(r.problem.shape.m)] == f"{metrics.speedup(r, baseline, COLD).median:.2f}x"


@pytest.fixture(scope="module")
def host_timed() -> Results:
    """Times that lie close together, with the baseline among the best."""
    return json_lines.read(ROOT / "results/h200/square_fp8_host_timer.jsonl.gz")


@pytest.mark.parametrize("which", ["h200", "made", "host_timed"])
def test_the_best_kernel_of_every_shape_is_the_summarys(page, which, request) -> None:
    results = request.getfixturevalue(which)
    summary = summarize(make_sets([results])[0])
    page.open([results])
    rows = page.table("#best")
    for number, (row, layer) in enumerate(zip(rows, summary.layers, strict=True)):
        assert row[f"layer \\ {summary.axis}"] == layer.title
        for size in summary.sizes:
            best = summary.best[number, size]
            ties = f" +{len(best.ties)}" if best.ties else ""
            speedup = best.row.times[summary.measure].speedup.median
            assert row[str(size)] == f"{summary.letter(best.row)}{speedup:.2f}x{ties}"


def test_the_verdict_names_the_kernel_with_the_best_mean(page, h200) -> None:
    best = next(one for one in summarize(make_sets([h200])[0]).standings if one.is_8_bit)
    page.open([h200])
    lead = page.text("#lead")
    assert lead.startswith(
        f"{best.text} is the fastest 8-bit kernel: {geometric_mean(best.every):.2f}x the speed of bf16"
    )
    assert f"over 28 shapes, from {min(best.every):.2f}x" in lead
    page.choose("scheme", "channel-w-token-a")
    assert "[channel-w-token-a] is the fastest" in page.text("#lead")


def test_a_point_of_a_curve_tells_its_own_time_interval_and_limit(page, h200) -> None:
    page.open([h200])
    page.choose("layer", "o_proj n=4096 k=4096")
    page.choose("x", "16")
    chosen = page.run("return [...chosenKernels(selectRows().withBaseline)].map((k) => current.kernels[k].text)")
    tips = [page.hover("#time circle.dot", number) for number in range(len(chosen))]
    said = {lines[0]: lines for lines in (list(filter(None, tip.splitlines())) for tip in tips)}
    shape = (16, 4096, 4096)
    for text in said:
        r = next(
            r
            for r in h200.records
            if r.text == text and (r.problem.shape.m, r.problem.shape.n, r.problem.shape.k) == shape
        )
        low, high = stats.interval(r.samples[COLD])
        seconds = stats.median(r.samples[COLD])
        assert said[text][1].split()[:3] == ["m=16", "n=4096", "k=4096"]
        assert said[text][2] == f"{format_time(seconds)} ({format_time(low)} to {format_time(high)})"
        assert said[text][3].startswith(f"{work.tflops(r.problem, seconds):.4g} TFLOP/s · ")
    assert len(said) >= 3, "points on one another share a tip, but not all of them"


@pytest.mark.parametrize("curve", ["seconds", "tflops", "limit"])
def test_curves_show_speed_up_first_and_then_what_is_asked_for(page, h200, curve) -> None:
    page.open([h200])
    assert page.text("#time h2") == "Speed-up over m"
    points = page.count("#time circle.dot")
    page.click(f"#curve input[value={curve}]")
    assert page.count("#time circle.dot") == points
    titles = {"tflops": "TFLOP/s", "seconds": "Time", "limit": "Percent of limit"}
    assert page.text("#time h2") == f"{titles[curve]} over m"


def test_every_layer_has_a_plot_and_every_cell_a_dot_on_the_roofline(page, h200) -> None:
    page.open([h200])
    assert page.count("#time figure") == 4
    paths = page.run("return [...document.querySelectorAll('#roofline path.dots')].map((p) => p.getAttribute('d'))")
    assert sum(d.count("h0") for d in paths) == 280
    roofs = page.run("return [...document.querySelectorAll('#roofline .roof-label')].map((t) => t.textContent)")
    assert roofs == ["bf16, fp16", "1071 TFLOP/s", "fp8", "2141 TFLOP/s", "4.814 TB/s"]


def test_cliffs_are_listed_and_ringed(page, h200) -> None:
    cliffs = find_cliffs(h200.records)
    page.open([h200])
    rows = page.whole_table("#cliffs")
    shown = sorted(
        (without_badge(row["kernel"]), row["layer"], row["m"], row["pad to m"], row["faster"]) for row in rows
    )
    assert shown == sorted(
        (
            c.record.text,
            f"{c.record.labels['layer']} n={c.record.problem.shape.n} k={c.record.problem.shape.k}",
            str(c.record.problem.shape.m),
            str(c.padded_m),
            f"{c.ratio.median:.2f}x",
        )
        for c in cliffs
    )
    chosen = page.run("return [...chosenKernels(selectRows().withBaseline)].map((k) => current.kernels[k].text)")
    assert page.count("#time circle.cliff") == sum(c.record.text in chosen for c in cliffs) > 0


def test_what_did_not_run_is_grouped_by_status_and_reason_with_faults_first(page, made) -> None:
    page.open([made])
    rows = [(row["status"], row["reason"], row["cells"]) for row in page.table("#statuses")]
    counts: dict[tuple[str, str], int] = {}
    for r in made.records:
        if r.status is not Status.OK:
            counts[r.status.value, r.reason] = counts.get((r.status.value, r.reason), 0) + 1
    assert {(status, reason): int(cells) for status, reason, cells in rows} == counts
    assert rows[0][0] == "incorrect"


def test_the_cost_of_quantizing_is_the_paired_difference(page, made) -> None:
    page.open([made])
    page.choose("activations", "dynamic")
    rows = page.whole_table("#cells")
    dynamic = [r for r in made.records if r.problem.activations.value == "dynamic"]
    for row, r in zip(rows, dynamic, strict=True):
        group = [one for one in made.records if one.comparison == r.comparison]
        twin = metrics.prequantized_twin(r, group)
        cost = metrics.quantization_cost(r, twin, COLD)
        assert row["cost"] == (format_time(cost.median) if cost else NOTHING)
        quant = r.samples.get(f"{COLD}_quant")
        assert row["quant"] == (format_time(stats.median(quant)) if quant else NOTHING)
    assert page.is_shown("#quantization")
    assert page.count("#quantization figure") == 2


def test_the_page_opens_on_the_set_with_most_cells_and_says_what_it_mixes(page, h200, made) -> None:
    page.open([made, h200])
    assert page.run("return DATA.sets.map((set) => set.rows.kernel.length)") == [len(made.records), len(h200.records)]
    assert page.run("return state.set") == int(len(h200.records) > len(made.records))
    said = page.text("#mixed")
    assert said.startswith(
        "These are the results of one of 2 sets that can't stand side by side, the one with the most"
    )
    page.open([h200])
    assert not page.is_shown("#mixed")


def test_accuracy_of_schemes_stands_beside_their_speed(page, made) -> None:
    page.open([made])
    assert page.run("return state.data") == "outliers", "schemes differ most on it"
    rows = {without_badge(row["kernel"]): row for row in page.table("#accuracy")}
    summary = summarize(make_sets([made])[0])
    levels = [r.scheme_sqnr_db["outliers"] for r in made.records if r.text == FP8]
    assert rows[FP8]["mean SQNR, outliers data"] == f"{sum(levels) / len(levels):.1f} dB"
    speed = next(geometric_mean(one.every) for one in summary.standings if one.text == FP8)
    assert rows[FP8]["speed-up over bf16"] == f"{speed:.2f}x"
    page.open([json_lines.read(ROOT / "results/h200/square_fp8_host_timer.jsonl.gz")])
    assert not page.is_shown("#accuracy"), "no record there knows the accuracy of its scheme"


def test_noise_clocks_and_software_are_there(page, h200) -> None:
    page.open([h200])
    said = page.text("#environment")
    for words in (
        "NVIDIA H200",
        "GPU-0fc5f694",
        "2.11.0+cu130",
        "580.159.04",
        "1811 MHz",
        "0.29% at most",
        "power_cap",
    ):
        assert words in said
    floors = [row["ratio"] for row in page.whole_table("#environment")]
    expected = [
        f"{metrics.noise_floor(e, [r for r in h200.records if r.comparison == e.index], COLD).median:.4f}x"
        for e in h200.ends
    ]
    assert floors == expected


def test_cells_are_sorted_by_size_and_searched_by_word(page, made) -> None:
    page.open([made])
    times = [stats.median(r.samples[COLD]) for r in made.records if r.status is Status.OK]
    heads = page.run("return [...document.querySelectorAll('#cells th')].map((th) => th.textContent)")
    column = heads.index(COLD) + 1
    page.click(f"#cells th:nth-child({column}) button")
    assert [row[f"{COLD} ↑"] for row in page.whole_table("#cells")][: len(times)] == list(
        map(format_time, sorted(times))
    )
    page.click(f"#cells th:nth-child({column}) button")
    assert page.table("#cells")[0][f"{COLD} ↓"] == format_time(max(times))
    page.type("#cells input", "vllm installed")
    assert len(page.table("#cells")) == sum(r.reason == "vllm is not installed" for r in made.records)


def test_results_of_another_gpu_are_shown_only_when_they_are_chosen(page) -> None:
    one, other = made_sweep(LAYERS[:1], (1, 64)), made_sweep(LAYERS[1:2], (1, 64), uuid="GPU-55555555-1")
    page.open([one, other])
    assert {row["n"] for row in page.whole_table("#cells")} == {"6144"}
    (label,) = [text for text in page.options("set") if "GPU-55555555" in text]
    page.choose("set", label)
    assert {row["n"] for row in page.whole_table("#cells")} == {"4096"}
    assert "GPU-55555555-1" in page.text("#environment")


def test_records_without_the_baseline_are_compared_with_the_fastest(page, made) -> None:
    records = [r for r in made.records if r.kernel != BASELINE]
    ends = [replace(e, cells=e.cells - 1, duplicate={}) for e in made.ends]
    page.open([changed(made, records, ends)])
    assert page.text("#speedup h2") == "Speed beside the fastest kernel of each shape"
    best = page.table("#speedup")[0]
    assert 0.8 < float(best["all"].removesuffix("x")) <= 1
    assert page.complaints() == []


def test_a_page_without_roofs_or_clocks_says_so(page) -> None:
    page.open([json_lines.read(ROOT / "results/h200/square_fp8_host_timer.jsonl.gz")])
    assert "no roofs" in page.text("#roofline .note")
    assert page.text("#time h2") == "Speed-up over m = n = k"
    assert page.complaints() == []


def test_nothing_is_asked_of_the_network_and_nothing_complains(page, made) -> None:
    page.open([made])
    page.click("#curve input[value=seconds]")
    page.choose("format", "int8")
    assert page.requests() == [page.address]
    assert page.complaints() == []


def evil_results() -> Results:
    base = record(BASELINE, *[1e-5] * 12, labels={"layer": EVIL, "model": EVIL})
    named = replace(
        base, kernel=EVIL, provider=EVIL, flags=(EVIL,), samples={"time_host": (9e-6,) * 12}, config={"x": EVIL}
    )
    failed = replace(base, kernel=FP8, status=Status.FAILED, reason=EVIL, error=None)
    header = replace(
        HEADER, command=(EVIL,), environment={"torch": EVIL}, device={"name": EVIL}, settings={"data": EVIL}
    )
    records = (base, named, failed)
    closed = replace(end(records), duplicate=END.duplicate, machine={"telemetry": f"unavailable: {EVIL}"})
    return in_file(records, [closed], header, [f"torn: {EVIL}"], "evil.jsonl")


def test_a_kernel_that_is_called_script_is_text_everywhere(page) -> None:
    page.open([evil_results()])
    assert page.count("script") == 2
    assert page.text("#device") == EVIL
    assert page.run("return document.title").endswith(EVIL)
    assert page.text("#lead").startswith(EVIL)
    assert EVIL in page.text("#warnings")
    assert EVIL in page.text("#speedup") and EVIL in page.text("#time .legend")
    assert page.hover("#time circle.dot").splitlines()[0] in (EVIL, BASELINE)
    assert page.table("#statuses")[0]["reason"] == EVIL
    assert EVIL in page.text("#environment")
    assert page.requests() == [page.address]
    assert page.complaints() == [], "an alert, or the policy that stops one"


@pytest.mark.parametrize("width", [400, 768, 1400])
@pytest.mark.parametrize("which", ["h200", "made"])
def test_the_page_is_never_wider_than_the_window(page, which, width, request) -> None:
    page.open([request.getfixturevalue(which)])
    page.resize(width)
    page.run("dispatchEvent(new Event('resize'))")
    assert page.run("return document.documentElement.scrollWidth") <= width
    # What is wider scrolls by itself, and text in plots keeps its size.
    assert page.run("return Math.min(...[...document.querySelectorAll('svg')].map((s) => s.getScreenCTM().a))") > 0.85


def brightness(page) -> int:
    return page.run("return Number(getComputedStyle(document.body).backgroundColor.match(/\\d+/)[0])")


def test_dark_and_light_follow_the_system_until_one_is_chosen_and_paper_is_light(page, made) -> None:
    page.open([made])
    assert brightness(page) > 200
    page.emulate("dark")
    assert brightness(page) < 50
    page.click("#theme input[value=light]")
    assert brightness(page) > 200
    page.click("#theme input[value=dark]")
    page.emulate("light")
    assert brightness(page) < 50
    page.emulate("light", "print")
    assert brightness(page) > 200
    assert not page.is_shown("#theme")


def test_on_paper_every_table_is_as_wide_as_the_page_and_lists_are_whole(page) -> None:
    many = made_sweep(LAYERS[:1], tokens=tuple(range(1, 31)))
    page.open([many])
    assert page.count("#speedup table") == page.count("#best table") == 1
    assert len(page.table("#cells")) < len(many.records)
    page.run("dispatchEvent(new Event('beforeprint'))")
    page.emulate("light", "print")
    page.resize(720)  # pixels of a sheet of Letter between its margins; 965 where it lies on its side
    assert (page.count("#speedup table"), page.count("#best table")) == (3, 5)
    titles = page.run("return [...document.querySelectorAll('#best thead th')].map((one) => one.textContent)")
    assert [title for title in titles if title.isdigit()] == [str(m) for m in range(1, 31)]
    assert len(page.table("#cells")) == len(many.records) <= 500
    wide = "return Math.max(...[...document.querySelectorAll(arguments[0])].map((one) => one.scrollWidth))"
    assert page.run(wide, "section:not(#cells) table") <= 720
    assert page.run(wide, "#cells table") <= 965
    page.run("dispatchEvent(new Event('afterprint'))")
    assert page.count("#speedup table") == 1


def test_a_click_on_a_letter_draws_its_kernel_or_greys_it(page, made) -> None:
    page.open([made])
    before = page.count("#time circle.dot")
    page.click("#speedup button[aria-pressed=false]")
    assert page.count("#time circle.dot") > before
    page.click("#speedup button[aria-pressed=true]")
    assert page.count("#speedup button[aria-pressed=true]") == page.count("#time .legend li")


def test_numbers_are_rounded_as_python_rounds_them(page, h200) -> None:
    page.open([h200])
    chance = random.Random(0)
    values = [10 ** chance.uniform(-9, 2) for _ in range(2_000)] + [999.96e-6, 9.9996e-7, 1.0, 0.5, 1.0625]
    assert page.run("return arguments[0].map(formatTime)", values) == [format_time(value) for value in values]
    assert page.run("return arguments[0].map(formatError)", values) == [f"{value:.1e}" for value in values]
    numbers = [10 ** chance.uniform(-6, 5) for _ in range(2_000)] + [75.125, 2048.5, 0.5]
    assert page.run("return arguments[0].map(formatNumber)", numbers) == [f"{value:.4g}" for value in numbers]
    ratios = [chance.uniform(0, 20) for _ in range(2_000)] + [1.125, 0.375, 2.5, 1.005, 2.675, 0.0]
    assert page.run("return arguments[0].map(formatRatio)", ratios) == [f"{value:.2f}x" for value in ratios]
    assert page.run("return arguments[0].map(formatPercent)", ratios) == [f"{value:.0f}%" for value in ratios]
