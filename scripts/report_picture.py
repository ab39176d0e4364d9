"""Makes the picture of a report that README.md shows: the top of the page, in light, as Chromium draws it.

    python3 scripts/report_picture.py results/h200/llama31_8b_libraries.jsonl.gz docs/report_h200.png

Needs a Chromium (Debian: apt install chromium). Neither torch nor the GPU of the records is asked for.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WIDTH, HEIGHT = 960, 1690
"""Down to the end of the first table."""

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
OPTIONS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--no-first-run",
    "--hide-scrollbars",
    "--disable-lcd-text",  # colored fringes would make the file larger
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path)
    parser.add_argument("picture", type=Path)
    args = parser.parse_args()
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        print(f"no {', '.join(BROWSERS)} found", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as directory:
        page = Path(directory, "report.html")
        report = [sys.executable, "-m", "w8a8_bench", "report", str(args.results), "--out", str(page)]
        subprocess.run(report, check=True, stdout=subprocess.DEVNULL, env={"PYTHONPATH": str(ROOT / "src")})
        size = f"--window-size={WIDTH},{HEIGHT}"
        profile = f"--user-data-dir={directory}/profile"
        shot = [browser, *OPTIONS, size, profile, f"--screenshot={args.picture.resolve()}", page.as_uri()]
        subprocess.run(shot, check=True, stderr=subprocess.DEVNULL)
    print(f"{args.picture}: {args.picture.stat().st_size / 1000:.0f} kB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
