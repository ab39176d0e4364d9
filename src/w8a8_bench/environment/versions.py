"""What the numbers were taken on: device, driver, versions. A missing fact is replaced by its reason."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import platform
import subprocess
from pathlib import Path

import w8a8_bench
from w8a8_bench.environment import telemetry
from w8a8_bench.environment.detect import cpu_name
from w8a8_bench.environment.device import Device


def describe(device: Device) -> dict[str, object]:
    """The environment line of a results file: versions and machine, nothing that changes while the run goes on."""
    import torch

    facts: dict[str, object] = {
        "w8a8_bench": w8a8_bench.__version__,
        "git_revision": _git_revision(),
        "source": _source_digest(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": cpu_name(),
        "cpu_threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "torch_cuda": torch.version.cuda,
        "triton": _version("triton"),
    }
    if device.is_cuda:
        facts.update(_nvml_facts(device))
    return facts


def _nvml_facts(device: Device) -> dict[str, object]:
    """Versions of the driver, of the CUDA that it offers and of NVML, and the GPU's power limit in watts."""
    facts: dict[str, object] = {**telemetry.versions()}
    try:
        with telemetry.Telemetry.open(device) as opened:
            limit = opened.limits.power_limit_w
            facts["power_limit_w"] = f"unknown: {opened.errors['power_limit_w']}" if limit is None else limit
            return facts
    except telemetry.TelemetryUnavailable as why:
        return {**facts, "nvml": f"unavailable: {why}", "power_limit_w": f"unknown: {why}"}


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _git_revision() -> str:
    """Commit of the source tree that runs, with `+changes` if files differ from it."""
    root = Path(__file__).resolve().parents[3]
    if not (root / ".git").exists():
        return "not a git checkout"
    try:
        # Without its optional lock: `status` killed while it holds that would leave the checkout locked.
        git = ["git", "--no-optional-locks", "-C", str(root)]
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10, check=True)
        status = subprocess.run(
            [*git, "status", "--porcelain", "--", "src"], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError) as error:
        return f"unknown: {type(error).__name__}"
    return commit.stdout.strip() + ("+changes" if status.stdout.strip() else "")


def _source_digest() -> str:
    """A fingerprint of this package's own files, kernels included, wherever it is installed."""
    package = Path(w8a8_bench.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        digest.update(str(path.relative_to(package)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]
