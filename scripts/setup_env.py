"""Makes the environment that `make` runs in: a venv with this package and the PyTorch that fits the machine.

    python3 scripts/setup_env.py .venv [--test] [--torch cpu|cu12|cu13]    make or update it; at once if nothing changed
    python3 scripts/setup_env.py --check ruff mypy                         are these modules here? nothing is installed

Needs the standard library alone, and starts under any Python 3, so that it can say which one is needed.
"""

import argparse
import hashlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Optional

ROOT = Path(__file__).resolve().parent.parent
INPUTS = ("pyproject.toml", "constraints.txt", "src/w8a8_bench/__init__.py")
"""What an installed environment depends on. The last one holds the version; the rest of src/ is installed editable."""

PYTHON_NEEDED = (3, 10)
STAMP = ".w8a8-bench.json"
CONSTRAINTS = ".w8a8-bench-constraints.txt"
TORCH_EXTRAS = ("cpu", "cu12", "cu13")

NVIDIA_VERSION_FILE = Path("/proc/driver/nvidia/version")
FIRST_DRIVER = ((580, 13), (525, 12))
"""The first driver branch that serves a CUDA version (CUDA compatibility guide, minimum drivers)."""


class SetupError(Exception):
    """Ends the set-up in one line."""


def main(arguments: Optional[list] = None) -> int:
    parser = argparse.ArgumentParser(description="Make the environment of w8a8-bench.")
    parser.add_argument("venv", nargs="?", default=".venv", help="where (default: %(default)s)")
    parser.add_argument("--test", action="store_true", help="also what the tests need")
    parser.add_argument("--torch", choices=TORCH_EXTRAS, help="which PyTorch (default: what the NVIDIA driver serves)")
    parser.add_argument("--check", nargs="+", metavar="MODULE", help="only say which of these modules are missing")
    args = parser.parse_args(arguments)
    try:
        if args.check:
            check_modules(args.check)
        else:
            check_python(sys.version_info[:2])
            set_up(Path(args.venv), args.torch, args.test)
    except SetupError as error:
        print("setup: {}".format(error), file=sys.stderr)
        return 1
    return 0


def check_python(version: tuple) -> None:
    if version < PYTHON_NEEDED:
        raise SetupError(
            "{} is Python {}.{}, and 3.10 or newer is needed: make PYTHON=/path/to/python3.11".format(
                sys.executable, *version
            )
        )


def check_modules(modules: list) -> None:
    missing = [module for module in modules if importlib.util.find_spec(module) is None]
    if missing:
        raise SetupError(
            "{} has no {}: install the extra `test` there, or leave out VENV=".format(
                sys.executable, ", ".join(missing)
            )
        )


def set_up(venv: Path, torch_extra: Optional[str], test: bool) -> None:
    """Brings the environment at `venv` up to date; returns at once if it already is."""
    stamp = read_stamp(venv)
    digest = input_digest()
    if is_current(stamp, digest, torch_extra, test):
        return
    driver = driver_seen()
    extra = torch_extra or (None if outgrown(stamp) else stamp.get("torch_extra")) or detect_torch_extra()
    extras = [extra, "test"] if test or stamp.get("test") else [extra]
    say("setting up {} with w8a8-bench[{}]".format(venv, ",".join(extras)))
    if not (venv / "bin" / "python").exists():
        make_venv(venv)
    (venv / STAMP).unlink(missing_ok=True)
    if extra != stamp.get("torch_extra", extra):
        # pip takes the old one for good enough: its version is in range, whatever it was built for.
        pip(venv, ["uninstall", "--yes", "torch"])
    install(venv, extras)
    for_want_of_driver = torch_extra is None and extra == "cpu" and not driver
    stamp = {"inputs": digest, "torch_extra": extra, "test": "test" in extras, "for_want_of_driver": for_want_of_driver}
    (venv / STAMP).write_text(json.dumps(stamp) + "\n")


def read_stamp(venv: Path) -> dict:
    """What the environment was last set up with; empty if there is none, or if its set-up was cut short."""
    if not (venv / "bin" / "python").exists():  # also when it links to a Python that is gone
        return {}
    try:
        stamp = json.loads((venv / STAMP).read_text())
    except (OSError, ValueError):
        return {}
    return stamp if isinstance(stamp, dict) else {}


def is_current(stamp: dict, digest: str, torch_extra: Optional[str], test: bool) -> bool:
    return (
        stamp.get("inputs") == digest
        and torch_extra in (None, stamp.get("torch_extra"))
        and (not test or stamp.get("test") is True)
        and (torch_extra is not None or not outgrown(stamp))
    )


def outgrown(stamp: dict) -> bool:
    """Whether it was made for the CPU because there was no driver, as on a login node, and now there is one."""
    return bool(stamp.get("for_want_of_driver")) and driver_seen()


def driver_seen() -> bool:
    """Signs of an NVIDIA driver that are free to look for; `driver_cuda` asks it."""
    return NVIDIA_VERSION_FILE.exists() or shutil.which("nvidia-smi") is not None


def input_digest() -> str:
    """Of the files that an environment depends on and of where they are, since an editable install points there."""
    digest = hashlib.sha256(str(ROOT).encode())
    for name in INPUTS:
        digest.update((ROOT / name).read_bytes())
    return digest.hexdigest()


def make_venv(venv: Path) -> None:
    if importlib.util.find_spec("venv") is None or importlib.util.find_spec("ensurepip") is None:
        raise SetupError(
            "{} has no venv or no ensurepip (Debian, Ubuntu: apt install python3-venv), "
            "or give another one: make PYTHON=/path/to/python3".format(sys.executable)
        )
    if venv.is_dir() and any(venv.iterdir()) and not (venv / "pyvenv.cfg").exists():
        raise SetupError("{} exists and is no virtual environment: give another path, make VENV=path".format(venv))
    # --clear: what is left of a half-made one, or of one whose Python is gone.
    run([sys.executable, "-m", "venv", "--clear", str(venv)], failure="could not make {}".format(venv))


def install(venv: Path, extras: list) -> None:
    constraints = venv / CONSTRAINTS
    constraints.write_text(constraints_for(extras, (ROOT / "constraints.txt").read_text()))
    requirement = "{}[{}]".format(ROOT, ",".join(extras))
    # In the environment too, so that the build's own requirements are held as well (newer pips by the second name).
    held = {"PIP_CONSTRAINT": str(constraints.resolve()), "PIP_BUILD_CONSTRAINT": str(constraints.resolve())}
    pip(venv, ["install", "-c", str(constraints), "-e", requirement], env=held)


def pip(venv: Path, arguments: list, env: Optional[dict] = None) -> None:
    python = str(venv / "bin" / "python")
    if not any((venv / "bin").glob("pip*")):  # a set-up that was cut short, or another tool's environment
        run([python, "-m", "ensurepip"], failure="{} has no pip, and ensurepip failed".format(python))
    run([python, "-m", "pip", *arguments], failure="pip failed, see above; the next `make` tries again", env=env)


def constraints_for(extras: list, text: str) -> str:
    """CI's exact torch is its CPU build's; for CUDA the extra's own range decides which release fits the driver, and
    that release brings its Triton."""
    if "cpu" in extras:
        return text
    return "".join(line for line in text.splitlines(keepends=True) if not re.match(r"(torch|triton)\s*=", line))


def detect_torch_extra() -> str:
    """The extra for the newest CUDA that this machine's driver serves."""
    cuda = driver_cuda()
    if cuda is None:
        say("no NVIDIA driver found: PyTorch for the CPU")
        return "cpu"
    if cuda < 12:
        say("the NVIDIA driver serves CUDA {}, and 12 or newer is needed: PyTorch for the CPU".format(cuda))
        return "cpu"
    extra = "cu13" if cuda >= 13 else "cu12"
    say("the NVIDIA driver serves CUDA {}: PyTorch for CUDA {}".format(cuda, extra[2:]))
    return extra


def driver_cuda() -> Optional[int]:
    """The major CUDA version that the driver serves, by nvidia-smi or else by the driver's own version file."""
    cuda = None
    if shutil.which("nvidia-smi"):
        try:
            smi = subprocess.run(["nvidia-smi"], capture_output=True, text=True, timeout=60)
        except (OSError, subprocess.TimeoutExpired) as error:
            say("nvidia-smi: {}".format(error))
        else:
            cuda = cuda_of_smi(smi.stdout) if smi.returncode == 0 else None
    if cuda is None and NVIDIA_VERSION_FILE.exists():
        cuda = cuda_of_module(NVIDIA_VERSION_FILE.read_text())
    return cuda


def cuda_of_smi(text: str) -> Optional[int]:
    """From the head of nvidia-smi's table: `Driver Version: 580.65.06      CUDA Version: 13.0`."""
    found = re.search(r"CUDA[ \w]* Version:\s*(\d+)\.", text)
    if found:
        return int(found.group(1))
    driver = re.search(r"Driver Version:\s*(\d+)\.", text)
    return cuda_of_driver(int(driver.group(1))) if driver else None


def cuda_of_module(text: str) -> Optional[int]:
    """From `NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build`."""
    driver = re.search(r"^NVRM version:.*?\s(\d{3,})\.\d+", text, re.MULTILINE)
    return cuda_of_driver(int(driver.group(1))) if driver else None


def cuda_of_driver(branch: int) -> int:
    return next((cuda for first, cuda in FIRST_DRIVER if branch >= first), 11)


def run(command: list, failure: str, env: Optional[dict] = None) -> None:
    """Its output goes to stderr: stdout is for the benchmark's tables."""
    completed = subprocess.run(command, stdout=sys.stderr, env=dict(os.environ, **(env or {})))
    if completed.returncode != 0:
        raise SetupError(failure)


def say(text: str) -> None:
    print("setup: {}".format(text), file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
