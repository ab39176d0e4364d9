"""What `doctor` says of providers that are not installed: the command that adds each, if it can run on this machine.

Every command works when it is pasted into a shell, in any directory: it names this Python's pip.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import shlex
import shutil
import sys
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from w8a8_bench.environment.architecture import HOPPER
from w8a8_bench.environment.device import Device, dotted
from w8a8_bench.providers import sglang

CUDA_EXTRAS = {
    13: ("torch>=2.11,<2.16", "cuda-bindings>=13", "nvidia-cutlass-dsl[cu13]>=4.6", "apache-tvm-ffi>=0.1.6", "numpy"),
    12: ("torch>=2.10,<2.11", "cuda-bindings>=12.8,<13", "nvidia-cutlass-dsl>=4.6", "apache-tvm-ffi>=0.1.6", "numpy"),
}
"""The extras cu13 and cu12, by CUDA version. Written out here, since an installed package has no pyproject.toml."""

TRITON = "triton>=3.6,<3.10"
"""The releases that this package is tested with. A PyTorch for CUDA names the one that it needs."""

CUTLASS_PACKAGES = ("nvidia-cutlass-dsl", "apache-tvm-ffi")
BINDINGS = "cuda-bindings"

TRITON_SINCE, VLLM_SINCE, SGLANG_SINCE = (8, 0), (7, 5), (8, 0)
"""First compute capability that some kernel of a provider runs on. CUTLASS' and DeepGEMM's run on Hopper alone."""

GPU_ONLY = "CUTLASS, Triton, cuBLASLt, vLLM, SGLang and DeepGEMM"

CLONE = Path(__file__).resolve().parents[3]
STAMP = ".w8a8-bench.json"
"""What scripts/setup_env.py leaves in the environments that it makes, `make`'s own ones in the clone among them."""


@dataclass(frozen=True)
class Machine:
    """What decides what can be added.

    device       the one that `doctor` was asked about
    torch        PyTorch's version, and `torch_cuda` the CUDA version that it was built for; None: for the CPU
    gpus         how many GPUs PyTorch finds, and `driver_gpus` how many the driver shows
    driver_cuda  the CUDA version that the driver serves; None: no driver
    """

    device: Device
    torch: str
    torch_cuda: str | None
    gpus: int
    driver_gpus: int
    driver_cuda: str | None


def advice(machine: Machine, missing: Collection[str]) -> list[str]:
    """Lines to print; none if nothing is missing. `missing` are the built-in providers that are not installed."""
    if not machine.device.is_cuda:
        return _on_a_cpu(machine)
    lines = []
    capability = machine.device.capability or (0, 0)
    requirements = CUDA_EXTRAS[_extra_for(machine.torch_cuda)]
    if wanted := _not_installed(requirements, [BINDINGS]):
        lines += [f"to add {BINDINGS}, which the timing needs:", _pip_install(wanted)]
    if capability == HOPPER and (wanted := _not_installed(requirements, CUTLASS_PACKAGES)):
        lines += ["to add cutlass:", _pip_install(wanted)]
    if capability >= TRITON_SINCE and "triton" in missing:
        lines += ["to add triton:", _pip_install([_triton_of_torch() or TRITON])]
    if "cublaslt" in missing:
        lines.append("cublaslt needs cuBLAS, which PyTorch's wheels for CUDA bring; this PyTorch came without it")
    return [*lines, *_peers(capability, missing), *_sglang(machine, missing)]


def _on_a_cpu(machine: Machine) -> list[str]:
    if machine.gpus:
        return ["`doctor` without --device cpu says what can be added for the GPU"]
    if not machine.driver_gpus:
        return [f"nothing is missing for the CPU; {GPU_ONLY} need an NVIDIA GPU"]
    served = _major(machine.driver_cuda)
    extra = _extra_for(machine.driver_cuda)
    if served < min(CUDA_EXTRAS):
        why = f"the driver serves CUDA {machine.driver_cuda}, and PyTorch needs 12 or newer: update the driver"
        return [f"the GPU is not used: {why}"]
    if machine.torch_cuda is None:
        why = f"this PyTorch ({machine.torch}) is built for the CPU"
    elif _major(machine.torch_cuda) > served:
        why = f"this PyTorch is built for CUDA {machine.torch_cuda}, and the driver serves CUDA {machine.driver_cuda}"
    else:
        return ["the GPU is not used: PyTorch does not find it; look at nvidia-smi and at CUDA_VISIBLE_DEVICES"]
    return [
        f"the GPU is not used: {why}",
        f"to add PyTorch for CUDA {extra}, CUTLASS and Triton:",
        _torch_for_cuda(extra),
    ]


def _peers(capability: tuple[int, int], missing: Collection[str]) -> list[str]:
    """How to add the libraries that are measured beside this project's kernels."""
    wanted = ["vllm"] if "vllm" in missing and capability >= VLLM_SINCE else []
    if "deepgemm" in missing and capability == HOPPER:
        wanted.append("deepgemm")
    if not wanted:
        return []
    upgrade = ["--upgrade"] if wanted == ["deepgemm"] else []  # an older vLLM, without a copy of it
    return [
        f"to add {' and '.join(wanted)} (vLLM brings the PyTorch that it needs; --no-deps keeps this one):",
        _pip_install([*upgrade, "vllm"]),
    ]


def _sglang(machine: Machine, missing: Collection[str]) -> list[str]:
    """How to add SGLang's kernels, each release of which is built for one PyTorch."""
    if "sglang" not in missing or (machine.device.capability or (0, 0)) < SGLANG_SINCE:
        return []
    release = sglang.RELEASES.get(machine.device.torch)
    if release is None or _major(machine.torch_cuda) != 13:
        return [f"there is no sglang-kernel for this PyTorch ({machine.torch}): {sglang.BUILT_FOR}"]
    version = dotted(machine.device.torch)
    return [
        f"to add sglang, in the release for PyTorch {version} (--no-deps keeps it):",
        _pip_install(["--no-deps", release]),
    ]


def _torch_for_cuda(extra: int) -> str:
    """The command that replaces PyTorch. Pip keeps the one that is there unless it goes first: its version would do."""
    prefix = Path(sys.prefix)
    if CLONE in prefix.parents and (prefix / STAMP).exists():
        venv = "" if prefix == CLONE / ".venv" else f" VENV={shlex.quote(sys.prefix)}"
        return f"  make -C {shlex.quote(str(CLONE))} setup TORCH=cu{extra}{venv}"
    return f"  {_pip()} uninstall --yes torch && {_pip_install(CUDA_EXTRAS[extra]).strip()}"


def _pip_install(words: Iterable[str]) -> str:
    return f"  {_pip()} install {' '.join(map(shlex.quote, words))}"


def _pip() -> str:
    """This environment's pip, as a shell finds it."""
    python = shlex.quote(sys.executable)
    if importlib.util.find_spec("pip") is None:
        return f"{python} -m ensurepip && {python} -m pip"
    found = shutil.which("pip")
    is_ours = found is not None and os.path.dirname(found) == os.path.dirname(sys.executable)
    return "pip" if is_ours else f"{python} -m pip"


def _not_installed(requirements: Iterable[str], packages: Collection[str]) -> list[str]:
    """Those of `requirements` that ask for one of `packages`, if it is not installed."""
    return [one for one in requirements if _name(one) in packages and not _is_installed(_name(one))]


def _is_installed(distribution: str) -> bool:
    try:
        importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _triton_of_torch() -> str | None:
    """What the installed PyTorch requires of Triton, as `triton==3.6.0`; None if it says nothing."""
    try:
        requirements = importlib.metadata.requires("torch") or []
    except importlib.metadata.PackageNotFoundError:
        return None  # a PyTorch built from source, on the path
    found = (one.partition(";")[0].strip() for one in requirements if _name(one) == "triton")
    return next(found, None)


def _name(requirement: str) -> str:
    found = re.match(r"[\w.-]+", requirement)
    return found[0] if found else ""


def _extra_for(cuda: str | None) -> int:
    """The extra for a CUDA version: the newest that is not newer, else the oldest."""
    return max((extra for extra in CUDA_EXTRAS if extra <= _major(cuda)), default=min(CUDA_EXTRAS))


def _major(cuda: str | None) -> int:
    """13 of `13.0`; 0 of what is no version."""
    found = re.match(r"\d+", cuda or "")
    return int(found[0]) if found else 0
