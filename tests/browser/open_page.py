"""A report that is open in a headless Chromium: how it is looked at, and what it takes to have one."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from w8a8_bench.report import html
from w8a8_bench.report.comparable_runs import make_sets
from w8a8_bench.results.json_lines import Results

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
DRIVER = "chromedriver"
OPTIONS = (
    "--headless=new",
    "--no-sandbox",  # which a container's root can not have
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--hide-scrollbars",
)


class Page:
    """The report that is open. Every look at it is one script, for a page of many elements."""

    def __init__(self, driver: Any, path: Path) -> None:
        self._driver, self._path = driver, path

    def open(self, results: Sequence[Results], *, pool_gpus: bool = False) -> None:
        """Render `results` and open the page at its widest, in light."""
        self._path.write_text(html.render(make_sets(results, pool_gpus=pool_gpus)), encoding="utf-8")
        self.resize(1400)
        self.emulate()
        self._driver.get_log("performance")
        self._driver.get_log("browser")
        self._driver.get(self._path.as_uri())

    def run(self, script: str, *arguments: object) -> Any:
        return self._driver.execute_script(script, *arguments)

    def resize(self, width: int) -> None:
        sizes = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        self._driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", sizes)

    def emulate(self, scheme: str = "light", media: str = "") -> None:
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self._driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": media, "features": features})
        # The page hears of it with the next frame.
        self._driver.execute_async_script(
            "const done = arguments[0]; requestAnimationFrame(() => requestAnimationFrame(() => done()))"
        )

    def choose(self, name: str, text: str) -> None:
        """Choose the option that reads `text` in a filter."""
        script = """
            const select = document.getElementById('filter-' + arguments[0]);
            const option = [...select.options].find((one) => one.text === arguments[1]);
            select.value = option.value;
            select.dispatchEvent(new Event('change'));
        """
        self.run(script, name, text)

    def options(self, name: str) -> list[str]:
        return self.run(
            "return [...document.getElementById('filter-' + arguments[0]).options].map((o) => o.text)", name
        )

    def type(self, selector: str, words: str) -> None:
        script = """
            const field = document.querySelector(arguments[0]);
            field.value = arguments[1];
            field.dispatchEvent(new Event('input'));
        """
        self.run(script, selector, words)

    def click(self, selector: str) -> None:
        self.run("document.querySelector(arguments[0]).click()", selector)

    def text(self, selector: str) -> str:
        return self.run("return document.querySelector(arguments[0]).innerText", selector)

    def count(self, selector: str) -> int:
        return self.run("return document.querySelectorAll(arguments[0]).length", selector)

    def is_shown(self, selector: str) -> bool:
        return self.run("return document.querySelector(arguments[0]).offsetParent !== null", selector)

    def table(self, selector: str) -> list[dict[str, str]]:
        """Rows of the table in `selector`, by the titles of its columns; of a list, those of the page that it shows."""
        script = """
            const table = document.querySelector(arguments[0] + ' table');
            const texts = (cells) => [...cells].map((cell) => cell.textContent);
            return [texts(table.tHead.rows[0].cells), [...table.tBodies[0].rows].map((row) => texts(row.cells))];
        """
        titles, rows = self.run(script, selector)
        return [dict(zip(titles, row, strict=True)) for row in rows]

    def whole_table(self, selector: str) -> list[dict[str, str]]:
        """Rows of every page of a list."""
        rows = self.table(selector)
        forward = (
            "return [...document.querySelectorAll(arguments[0] + ' button')].find((b) => b.textContent === 'Next')"
        )
        while self.run(f"{forward}?.disabled === false", selector):
            self.run(f"const next = (() => {{ {forward} }})(); next.click()", selector)
            rows += self.table(selector)
        return rows

    def hover(self, selector: str, number: int = 0) -> str:
        """Point at the middle of an element, and read the tip."""
        script = """
            const element = document.querySelectorAll(arguments[0])[arguments[1]];
            const box = element.getBoundingClientRect();
            const [x, y] = [box.left + box.width / 2, box.top + box.height / 2];
            const init = {bubbles: true, clientX: x, clientY: y};
            element.dispatchEvent(new PointerEvent('pointermove', init));
            const tip = document.getElementById('tip');
            return tip.hidden ? '' : tip.innerText;
        """
        return self.run(script, selector, number)

    def requests(self) -> list[str]:
        """Every address that was asked for since the page was opened."""
        messages = [json.loads(entry["message"])["message"] for entry in self._driver.get_log("performance")]
        sent = [message for message in messages if message["method"] == "Network.requestWillBeSent"]
        return [message["params"]["request"]["url"] for message in sent]

    def complaints(self) -> list[str]:
        """What the browser's console says: errors of the script, and breaches of its policy."""
        return [entry["message"] for entry in self._driver.get_log("browser")]

    @property
    def address(self) -> str:
        return self._path.as_uri()


def start(profile: Path) -> Any:
    """A driver of a browser that knows nothing yet and keeps what it is told in `profile`."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = _chromium()
    for option in (*OPTIONS, f"--user-data-dir={profile}"):
        options.add_argument(option)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    return webdriver.Chrome(options=options, service=Service(shutil.which(DRIVER)))


def why_not() -> str | None:
    """What is missing for a browser, as the reason to skip its tests."""
    missing = [] if _chromium() else [BROWSERS[0]]
    missing += [] if shutil.which(DRIVER) else [DRIVER]
    missing += [] if importlib.util.find_spec("selenium") else ["selenium"]
    return f"the page of a report is not tested in a browser: there is no {', no '.join(missing)}" if missing else None


def _chromium() -> str | None:
    return next(filter(None, map(shutil.which, BROWSERS)), None)
