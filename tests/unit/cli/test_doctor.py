"""What `doctor` says: which kernels run, in tables that fit a terminal, and commands that add what is missing."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch.utils.benchmark  # noqa: F401  first: once pip was looked for, setuptools, which this needs, fails to import
from copies import replace
from made_devices import CPU, H200

from w8a8_bench.cli import install_advice
from w8a8_bench.cli.doctor import WIDTH, Asked, kernel_lines, provider_lines
from w8a8_bench.cli.install_advice import Machine, advice
from w8a8_bench.kernel import Probe
from w8a8_bench.providers.provider import Provider

ROOT = Path(__file__).resolve().parents[3]
ON_H200 = Machine(replace(H200, torch=(2, 11)), "2.11.0+cu130", "13.0", gpus=1, driver_gpus=1, driver_cuda="13.0")
ON_CPU = Machine(CPU, "2.13.0+cpu", None, gpus=0, driver_gpus=0, driver_cuda=None)
PEERS = ("cublaslt", "vllm", "sglang", "deepgemm")
NO_GPU = "needs an NVIDIA GPU; this is a CPU"


def asked(name: str, *answers: str, probe: Probe | None = None, origin: str = "") -> Asked:
    names = [f"{name}_i8_i8_bf16_scaled_mm{suffix}" for suffix in ("", "_bias")]
    kernels = dict(zip(names, answers, strict=False))
    found = Probe.found("1.0") if probe is None else probe
    return Asked(Provider(name, "", tuple(kernels), origin=origin), found, kernels)


SOME = [
    asked("pytorch", "yes", "no: k=72 is not a multiple of 16"),
    asked("cutlass", f"no: {NO_GPU}", f"no: {NO_GPU}"),
    asked("vllm", "no: vllm is not installed", probe=Probe.missing("vllm is not installed")),
    asked("odd", "no: one reason", "no: another reason", origin="odd.py"),
    asked("bad", probe=Probe.broken("KERNELS is missing"), origin="bad.py"),
]


def test_a_provider_is_one_line_with_its_version_its_count_and_why_nothing_runs():
    assert provider_lines(SOME).splitlines() == [
        "provider  version  run here  why not",
        "pytorch   1.0      1 of 2",
        f"cutlass   1.0      0 of 2    {NO_GPU}",
        "vllm      -        0 of 1    vllm is not installed",
        "odd       1.0      0 of 2    for several reasons, see below (from odd.py)",
        "bad       -        0 of 0    KERNELS is missing (from bad.py)",
    ]


def test_kernels_are_listed_by_provider_unless_its_line_says_all():
    assert kernel_lines(SOME).splitlines() == [
        "kernels at m=128 n=4096 k=4096, each in its default scheme:",
        "",
        "pytorch",
        "  pytorch_i8_i8_bf16_scaled_mm       yes",
        "  pytorch_i8_i8_bf16_scaled_mm_bias  no: k=72 is not a multiple of 16",
        "",
        "odd",
        "  odd_i8_i8_bf16_scaled_mm           no: one reason",
        "  odd_i8_i8_bf16_scaled_mm_bias      no: another reason",
    ]
    assert kernel_lines(SOME[1:3]) == "no kernel runs at m=128 n=4096 k=4096"


def test_long_reasons_are_broken_into_lines_that_fit():
    words = " ".join(f"word{number}" for number in range(60))
    some = [asked("pytorch", "yes", f"no: {words}"), asked("vllm", f"no: {words}", probe=Probe.broken(words))]
    for text in (provider_lines(some), kernel_lines(some)):
        lines = text.splitlines()
        assert WIDTH - 10 < max(map(len, lines)) <= WIDTH
        assert words in " ".join(text.split())
        at = next(line.index("word0") for line in lines if "word0" in line) - (4 if "no: word0" in text else 0)
        assert all(line.startswith(" " * at + "word") for line in lines if line.strip().startswith("word"))


def test_the_commands_install_what_the_extras_of_the_project_ask_for():
    text = (ROOT / "pyproject.toml").read_text()
    for cuda, requirements in install_advice.CUDA_EXTRAS.items():
        (extra,) = re.findall(rf"^cu{cuda} = \[(.*)\]$", text, re.MULTILINE)
        assert re.findall(r'"([^"]+)"', extra) == list(requirements)
    assert f'"{install_advice.TRITON}; ' in text


@pytest.fixture
def nothing_installed(monkeypatch, tmp_path):
    """None of the packages that are looked for, a pip of another environment on the PATH, and this one made by hand."""
    monkeypatch.setattr(install_advice, "_is_installed", lambda distribution: False)
    monkeypatch.setattr(install_advice, "_triton_of_torch", lambda: "triton==3.6.0")
    monkeypatch.setattr(install_advice.shutil, "which", lambda name: "/usr/bin/pip")
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "by hand"))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "it's python"))


def calls_of(lines: list[str], tmp_path: Path) -> list[list[str]]:
    """Paste the commands among `lines` into a shell where this Python, the only program there, notes its arguments."""
    python = Path(sys.executable)
    assert python.parent == tmp_path, "never the Python that runs these tests: the commands install and remove packages"
    python.write_text(
        f"#!/bin/sh\nfor word; do echo \"$word\"; done >> '{tmp_path}/words'\necho >> '{tmp_path}/words'\n"
    )
    python.chmod(0o755)
    for line in lines:
        if line.startswith("  "):
            subprocess.run(["/bin/sh", "-c", line], check=True, cwd=tmp_path, env={"PATH": str(tmp_path / "nothing")})
    return [call.splitlines() for call in (tmp_path / "words").read_text().split("\n\n") if call.strip()]


def test_on_a_gpu_every_missing_provider_has_a_command_that_works_when_pasted(nothing_installed, tmp_path):
    pip = ["-m", "pip", "install"]
    lines = advice(ON_H200, ["triton", *PEERS])
    assert calls_of(lines, tmp_path) == [
        [*pip, "cuda-bindings>=13"],
        [*pip, "nvidia-cutlass-dsl[cu13]>=4.6", "apache-tvm-ffi>=0.1.6"],
        [*pip, "triton==3.6.0"],
        [*pip, "vllm"],
        [*pip, "--no-deps", "sglang-kernel==0.4.4"],
    ]
    assert [line for line in lines if not line.startswith("  ")] == [
        "to add cuda-bindings, which the timing needs:",
        "to add cutlass:",
        "to add triton:",
        "cublaslt needs cuBLAS, which PyTorch's wheels for CUDA bring; this PyTorch came without it",
        "to add vllm and deepgemm (vLLM brings the PyTorch that it needs; --no-deps keeps this one):",
        "to add sglang, in the release for PyTorch 2.11 (--no-deps keeps it):",
    ]


def test_for_cuda_12_the_packages_are_those_of_cuda_12(nothing_installed):
    lines = advice(replace(ON_H200, torch_cuda="12.8"), [])
    assert lines[1].endswith("-m pip install 'cuda-bindings>=12.8,<13'")
    assert lines[3].endswith("-m pip install 'nvidia-cutlass-dsl>=4.6' 'apache-tvm-ffi>=0.1.6'")


def test_what_can_not_run_on_this_gpu_is_not_suggested(nothing_installed):
    for capability, suggested in (
        ((8, 9), ["triton", "vllm", "sglang"]),
        ((7, 5), ["vllm"]),
        ((7, 0), []),
        ((9, 0), ["cutlass", "triton", "vllm and deepgemm", "sglang"]),
        ((10, 0), ["triton", "vllm", "sglang"]),
    ):
        machine = replace(ON_H200, device=replace(ON_H200.device, capability=capability))
        said = advice(machine, ["triton", "vllm", "sglang", "deepgemm"])
        lines = [re.split(r",? in the release", line)[0] for line in said if line.startswith("to add ")]
        assert [line.removeprefix("to add ").partition(" (")[0].removesuffix(":") for line in lines] == [
            "cuda-bindings, which the timing needs",
            *suggested,
        ]


def test_where_nothing_is_missing_nothing_is_said(monkeypatch):
    monkeypatch.setattr(install_advice, "_is_installed", lambda distribution: True)
    assert advice(ON_H200, []) == []


def test_a_vllm_without_deepgemm_is_to_be_upgraded(monkeypatch):
    monkeypatch.setattr(install_advice, "_is_installed", lambda distribution: True)
    (says, command) = advice(ON_H200, ["deepgemm"])
    assert says.startswith("to add deepgemm (") and command.endswith(" install --upgrade vllm")


def test_sglang_is_added_in_the_release_for_this_pytorch_or_not_at_all(monkeypatch):
    monkeypatch.setattr(install_advice, "_is_installed", lambda distribution: True)
    machine = replace(ON_H200, torch="2.14.1+cu130", device=replace(H200, torch=(2, 14)))
    assert advice(machine, ["sglang"])[1].endswith(" install --no-deps sglang-kernel==0.4.10")
    machine = replace(ON_H200, torch="2.12.0+cu130", device=replace(H200, torch=(2, 12)))
    assert advice(machine, ["sglang"]) == [
        "there is no sglang-kernel for this PyTorch (2.12.0+cu130): "
        "releases are built for CUDA 13 with PyTorch 2.11, 2.13, 2.14"
    ]
    (says,) = advice(replace(ON_H200, torch="2.11.0+cu126", torch_cuda="12.6"), ["sglang"])
    assert says.startswith("there is no sglang-kernel for this PyTorch (2.11.0+cu126)")


def test_without_a_gpu_no_command_is_suggested_and_nothing_is_said_to_be_missing(nothing_installed):
    assert advice(ON_CPU, ["triton", *PEERS]) == [
        "nothing is missing for the CPU; CUTLASS, Triton, cuBLASLt, vLLM, SGLang and DeepGEMM need an NVIDIA GPU"
    ]


def test_a_pytorch_for_the_cpu_beside_a_gpu_is_replaced(nothing_installed, tmp_path):
    lines = advice(replace(ON_CPU, driver_gpus=2, driver_cuda="13.1"), PEERS)
    assert calls_of(lines, tmp_path) == [
        ["-m", "pip", "uninstall", "--yes", "torch"],
        ["-m", "pip", "install", *install_advice.CUDA_EXTRAS[13]],
    ]
    assert lines[:2] == [
        "the GPU is not used: this PyTorch (2.13.0+cpu) is built for the CPU",
        "to add PyTorch for CUDA 13, CUTLASS and Triton:",
    ]


@pytest.mark.parametrize(
    ("torch_cuda", "driver_cuda", "says"),
    [
        ("13.0", "12.4", "this PyTorch is built for CUDA 13.0, and the driver serves CUDA 12.4"),
        ("12.8", "11.4", "the driver serves CUDA 11.4, and PyTorch needs 12 or newer: update the driver"),
        ("12.8", "13.0", "PyTorch does not find it; look at nvidia-smi and at CUDA_VISIBLE_DEVICES"),
    ],
)
def test_a_gpu_that_pytorch_can_not_use_is_said_with_the_reason(nothing_installed, torch_cuda, driver_cuda, says):
    machine = replace(ON_CPU, torch_cuda=torch_cuda, driver_gpus=1, driver_cuda=driver_cuda)
    first, *command = advice(machine, [])
    assert first == f"the GPU is not used: {says}"
    if command:
        assert "'torch>=2.10,<2.11'" in command[-1], "the newest that the driver serves"


def test_asked_about_the_cpu_of_a_machine_with_a_gpu_it_names_the_way_to_ask_about_that():
    assert advice(replace(ON_CPU, gpus=1, driver_gpus=1), []) == [
        "`doctor` without --device cpu says what can be added for the GPU"
    ]


@pytest.mark.parametrize("name", [".venv", "other env"])
def test_an_environment_that_make_made_in_the_clone_is_changed_by_make(nothing_installed, tmp_path, monkeypatch, name):
    clone = tmp_path / "a clone"
    prefix = clone / name
    prefix.mkdir(parents=True)
    (clone / "Makefile").write_text((ROOT / "Makefile").read_text())
    (prefix / install_advice.STAMP).write_text("{}")
    monkeypatch.setattr(install_advice, "CLONE", clone)
    monkeypatch.setattr(sys, "prefix", str(prefix))
    command = advice(replace(ON_CPU, driver_gpus=1, driver_cuda="12.9"), [])[-1]
    env = {"PATH": os.environ["PATH"], "MAKEFLAGS": "n"}  # says what it would run, and runs nothing
    said = subprocess.run(["sh", "-c", command], check=True, cwd=tmp_path, env=env, capture_output=True, text=True)
    venv = ".venv" if name == ".venv" else str(prefix)
    assert f"python3 scripts/setup_env.py {venv} --torch cu12" in said.stdout.splitlines()


def test_an_environment_that_make_made_for_another_clone_is_left_to_pip(nothing_installed, tmp_path, monkeypatch):
    monkeypatch.setattr(install_advice, "CLONE", tmp_path / "a clone")
    (tmp_path / "by hand").mkdir()
    (tmp_path / "by hand" / install_advice.STAMP).write_text("{}")
    assert " -m pip uninstall --yes torch && " in advice(replace(ON_CPU, driver_gpus=1, driver_cuda="13.0"), [])[-1]


def test_pip_is_called_by_its_short_name_only_if_that_is_this_environments(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bin/python"))
    for found, command in (
        (str(tmp_path / "bin/pip"), "pip"),
        ("/usr/bin/pip", f"{tmp_path}/bin/python -m pip"),
        (None, f"{tmp_path}/bin/python -m pip"),
    ):
        monkeypatch.setattr(install_advice.shutil, "which", lambda name, found=found: found)
        assert install_advice._pip() == command
    monkeypatch.setattr(install_advice.importlib.util, "find_spec", lambda name: None)
    assert install_advice._pip() == f"{tmp_path}/bin/python -m ensurepip && {tmp_path}/bin/python -m pip"
