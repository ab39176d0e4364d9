"""The page of a history in a browser, wide and narrow, light and dark: it fits, and its numbers are the JSON's."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from open_page import start, why_not
from simulated_histories import Planted, cell, run_facts, simulate

from w8a8_bench.report.history.export import render_json
from w8a8_bench.report.history.page import render_html
from w8a8_bench.report.history.series import make_history
from w8a8_bench.results.history_index import Times
from w8a8_bench.text import format_time

if why := why_not():
    pytest.skip(why, allow_module_level=True)

THRESHOLD = 0.01
SERIES = """
return [...document.querySelectorAll("details")].map(one => ({
  kernel: one.querySelector(".cell").textContent,
  shape: one.querySelector(".shape").textContent,
  newest: one.querySelector("summary .number").textContent,
  state: one.querySelectorAll("summary .number")[1].textContent,
  levels: [...one.querySelectorAll("tr")].slice(1).map(row => [...row.cells].map(cell => cell.textContent)),
  runs: one.querySelectorAll("circle").length,
}));
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory) -> Iterator[Any]:
    driver = start(tmp_path_factory.mktemp("chromium"))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def history():
    planted = {0: Planted(at=40, step=0.05), 1: Planted(at=30, step=-0.04), 3: Planted(at=20, drift=0.004)}
    broken = Times(run_facts(60), cell(2), None, 0.0, "crashed", "a reason")
    return make_history([*simulate(planted, 5, seed=5), broken])


@pytest.fixture
def opened(browser, history, tmp_path):
    path = tmp_path / "history.html"
    path.write_text(render_html(history, THRESHOLD), encoding="utf-8")
    browser.get_log("browser")
    browser.get(path.as_uri())
    yield browser
    assert browser.get_log("browser") == []


def test_every_number_is_the_one_of_the_json(opened, history):
    data = json.loads(render_json(history, THRESHOLD))
    runs = [f"{run['time'][:16].replace('T', ' ')} ({run['file']})" for run in data["runs"]]
    shown = {(one["kernel"], one["shape"]): one for one in opened.execute_script(SERIES)}
    assert len(shown) == len(data["series"])
    for one in data["series"]:
        problem = one["problem"]
        page = shown[one["kernel"], f"m={problem['m']} n={problem['n']} k={problem['k']}"]
        assert page["newest"] == format_time(one["levels"][-1]["seconds"])
        assert page["runs"] == len(one["points"])
        if one["verdict"] == "worse":
            assert page["state"] == f"{100 * (one['newest_over_best'] - 1):+.2f}%"
        for level, (first, last, count, seconds, change, _) in zip(one["levels"], page["levels"], strict=True):
            assert (first, last) == (runs[level["first_run"]], runs[level["last_run"]])
            assert (int(count), seconds) == (level["runs"], format_time(level["seconds"]))
            assert bool(change) == (level is not one["levels"][0])
        for change, row in zip(one["changes"], page["levels"][1:], strict=True):
            assert row[4].startswith(f"{100 * (change['ratio'] - 1):+.2f}% (")


@pytest.mark.parametrize("width", [1400, 700, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_wider_than_the_window_and_all_can_be_read(opened, width, scheme):
    sizes = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    opened.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", sizes)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": features})
    opened.execute_script("for (const one of document.querySelectorAll('details')) one.open = true")
    assert opened.execute_script("return document.documentElement.scrollWidth") <= width
    back, ink = opened.execute_script(
        "const style = getComputedStyle(document.body); return [style.backgroundColor, style.color]"
    )
    luminance = [sum(map(float, color.strip("rgb()").split(","))) for color in (back, ink)]
    assert (luminance[0] > luminance[1]) == (scheme == "light")
    assert abs(luminance[0] - luminance[1]) > 400
