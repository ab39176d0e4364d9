"""The set-up script: what it takes a machine to be, when it has nothing to do, what it says where it can't go on."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[3]

SMI = """\
+-----------------------------------------------------------------------------------------+
| NVIDIA-SMI {driver}              Driver Version: {driver}      CUDA Version: {cuda}     |
+-----------------------------------------+------------------------+----------------------+
"""
MODULE = """\
NVRM version: NVIDIA UNIX{flavour} Kernel Module{arch}  {driver}  Release Build  (builder@host)  Wed Jul 30
GCC version:  gcc version 12.3.0
"""


@pytest.fixture
def setup_env(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script, on a machine without a driver, which keeps what it would have run in `ran`."""
    spec = importlib.util.spec_from_file_location("setup_env", ROOT / "scripts" / "setup_env.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr(module, "NVIDIA_VERSION_FILE", tmp_path / "version")
    module.ran = []

    def run(command: list[str], failure: str, env: dict[str, str] | None = None) -> None:
        module.ran.append(command[1:])
        if "venv" in command:
            make_executable(Path(command[-1]) / "bin" / "python", "")
            make_executable(Path(command[-1]) / "bin" / "pip", "")

    monkeypatch.setattr(module, "run", run)
    return module


def make_executable(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def fake_smi(tmp_path: Path, text: str, status: int = 0) -> None:
    (tmp_path / "smi.txt").write_text(text)
    make_executable(
        tmp_path / "bin" / "nvidia-smi",
        f'while IFS= read -r line; do echo "$line"; done < "{tmp_path}/smi.txt"\nexit {status}',
    )


@pytest.mark.parametrize(
    ("driver", "cuda", "extra"),
    [
        ("580.65.06", "13.0", "cu13"),
        ("610.11", "14.1", "cu13"),
        ("550.54.15", "12.4", "cu12"),
        ("470.82.01", "11.4", "cpu"),
        ("580.65.06", "N/A", "cu13"),
        ("535.10", "N/A", "cu12"),
    ],
)
def test_nvidia_smi_decides_which_torch(
    setup_env: ModuleType, tmp_path: Path, driver: str, cuda: str, extra: str
) -> None:
    fake_smi(tmp_path, SMI.format(driver=driver, cuda=cuda))
    assert setup_env.detect_torch_extra() == extra


@pytest.mark.parametrize(
    ("flavour", "arch", "driver", "extra"),
    [
        (" x86_64", "", "570.133.20", "cu12"),
        (" Open", " for x86_64", "580.65.06", "cu13"),
        (" Open", " for aarch64", "590.44", "cu13"),
        (" x86_64", "", "470.82.01", "cpu"),
    ],
)
def test_the_drivers_own_file_decides_where_nvidia_smi_is_missing_or_fails(
    setup_env: ModuleType, tmp_path: Path, flavour: str, arch: str, driver: str, extra: str
) -> None:
    (tmp_path / "version").write_text(MODULE.format(flavour=flavour, arch=arch, driver=driver))
    assert setup_env.detect_torch_extra() == extra
    fake_smi(tmp_path, "Failed to initialize NVML: Unknown Error", status=255)
    assert setup_env.detect_torch_extra() == extra


def test_no_driver_is_a_cpu(setup_env: ModuleType, tmp_path: Path) -> None:
    assert setup_env.detect_torch_extra() == "cpu"
    fake_smi(tmp_path, "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.", status=9)
    assert setup_env.detect_torch_extra() == "cpu"


def test_a_second_call_installs_nothing(setup_env: ModuleType, tmp_path: Path) -> None:
    venv = tmp_path / "venv"
    setup_env.set_up(venv, None, test=True)
    assert [command[:3] for command in setup_env.ran] == [["-m", "venv", "--clear"], ["-m", "pip", "install"]]
    assert setup_env.ran[-1][-1] == f"{ROOT}[cpu,test]"
    setup_env.ran.clear()
    setup_env.set_up(venv, None, test=True)
    setup_env.set_up(venv, None, test=False)
    setup_env.set_up(venv, "cpu", test=False)
    assert setup_env.ran == []


def test_tests_are_added_to_an_environment_without_them(setup_env: ModuleType, tmp_path: Path) -> None:
    setup_env.set_up(tmp_path / "venv", None, test=False)
    setup_env.set_up(tmp_path / "venv", None, test=True)
    assert [command[-1] for command in setup_env.ran[1:]] == [f"{ROOT}[cpu]", f"{ROOT}[cpu,test]"]


def test_a_change_of_what_is_needed_installs_again(
    setup_env: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    setup_env.set_up(tmp_path / "venv", None, test=False)
    setup_env.ran.clear()
    monkeypatch.setattr(setup_env, "input_digest", lambda: "another")
    setup_env.set_up(tmp_path / "venv", None, test=False)
    assert [command[:3] for command in setup_env.ran] == [["-m", "pip", "install"]]


def test_a_failed_install_is_tried_again(
    setup_env: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = setup_env.run

    def fail(command: list[str], failure: str, env: dict[str, str] | None = None) -> None:
        run(command, failure, env)
        if "install" in command:
            raise setup_env.SetupError(failure)

    with monkeypatch.context() as patched:
        patched.setattr(setup_env, "run", fail)
        assert setup_env.main([str(tmp_path / "venv")]) == 1
    assert capsys.readouterr().err.splitlines()[-1].startswith("setup: pip failed")
    setup_env.ran.clear()
    assert setup_env.main([str(tmp_path / "venv")]) == 0
    assert [command[:3] for command in setup_env.ran] == [["-m", "pip", "install"]]


def test_a_driver_that_appears_replaces_the_cpus_torch(setup_env: ModuleType, tmp_path: Path) -> None:
    setup_env.set_up(tmp_path / "venv", None, test=False)
    setup_env.ran.clear()
    fake_smi(tmp_path, SMI.format(driver="580.65.06", cuda="13.0"))
    setup_env.set_up(tmp_path / "venv", None, test=False)
    assert [command[2] for command in setup_env.ran] == ["uninstall", "install"]
    assert setup_env.ran[-1][-1] == f"{ROOT}[cu13]"


def test_a_cpu_torch_that_was_asked_for_stays(setup_env: ModuleType, tmp_path: Path) -> None:
    fake_smi(tmp_path, SMI.format(driver="580.65.06", cuda="13.0"))
    setup_env.set_up(tmp_path / "venv", "cpu", test=False)
    setup_env.ran.clear()
    setup_env.set_up(tmp_path / "venv", None, test=False)
    assert setup_env.ran == []


def test_the_exact_torch_and_its_triton_are_held_on_a_cpu_alone(setup_env: ModuleType) -> None:
    text = "# torch==1\ntorch==2.13.0\ntriton==3.7.1\ntorchless==1\nrich==15.0.0\n"
    assert setup_env.constraints_for(["cpu", "test"], text) == text
    assert setup_env.constraints_for(["cu13"], text) == "# torch==1\ntorchless==1\nrich==15.0.0\n"


@pytest.mark.parametrize("version", [(2, 7), (3, 6), (3, 9)])
def test_an_old_python_is_refused_in_one_line(setup_env: ModuleType, version: tuple[int, int]) -> None:
    with pytest.raises(setup_env.SetupError, match=rf"is Python {version[0]}\.{version[1]}, and 3.10 or newer"):
        setup_env.check_python(version)


def test_a_python_without_ensurepip_is_refused_in_one_line(
    setup_env: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "ensurepip" else find_spec(name))
    assert setup_env.main([str(tmp_path / "venv")]) == 1
    assert "no ensurepip" in capsys.readouterr().err.splitlines()[-1]
    assert setup_env.ran == []


def test_a_directory_of_something_else_is_left_alone(
    setup_env: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "thesis.tex").write_text("")
    assert setup_env.main([str(tmp_path)]) == 1
    assert "is no virtual environment" in capsys.readouterr().err
    assert setup_env.ran == []


def test_missing_tools_are_named(setup_env: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert setup_env.main(["--check", "os", "ruffle", "mypie"]) == 1
    assert f"{sys.executable} has no ruffle, mypie" in capsys.readouterr().err
    assert setup_env.main(["--check", "os"]) == 0


def test_the_script_starts_by_its_path_from_anywhere(tmp_path: Path) -> None:
    assert os.system(f'cd "{tmp_path}" && "{sys.executable}" "{ROOT}/scripts/setup_env.py" --check os') == 0
