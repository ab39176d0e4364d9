"""Providers: third parties' are found and read, whatever is wrong with one is a reason, and names select them."""

from __future__ import annotations

import io
import re
import sys
import textwrap
from pathlib import Path

import pytest
from made_devices import CPU

from w8a8_bench.kernel import Kernel, Probe
from w8a8_bench.problem import PER_TENSOR, GemmShape
from w8a8_bench.problem.formats import Format
from w8a8_bench.problem.kernel_name import KernelName
from w8a8_bench.providers import registry, third_party
from w8a8_bench.providers.provider import Provider, UnavailableKernel

INT8, FP8 = (Format.INT8,), (Format.FP8,)
KERNEL = "acme_i8_i8_bf16_scaled_mm"
GOOD = f"""
    from w8a8_bench.kernel import Probe, Support
    KERNELS = ("{KERNEL}",)
    def probe():
        return Probe.found("1.2")
    class Kernel:
        name = "{KERNEL}"
        def supports(self, problem, device):
            return Support.yes()
        def prepare(self, problem, device):
            raise NotImplementedError
    def kernel(name):
        return Kernel()
"""


def write(path: Path, body: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(textwrap.dedent(body))
    return path


def by_file(monkeypatch, *files: Path) -> tuple[Provider, ...]:
    monkeypatch.setenv(third_party.FILES, ":".join(map(str, files)))
    return third_party.find(["pytorch"])


def by_entry_point(monkeypatch, tmp_path: Path, text: str, distribution: str = "acme_w8a8-1.0") -> None:
    info = tmp_path / f"{distribution}.dist-info"
    write(info / "entry_points.txt", f"[w8a8_bench.providers]\n{text}\n")
    name, _, version = distribution.partition("-")
    write(info / "METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    monkeypatch.syspath_prepend(str(tmp_path))


@pytest.fixture(autouse=True)
def none_of_this_machine(monkeypatch):
    """No third party but the test's own, and no module of another test's."""
    monkeypatch.delenv(third_party.FILES, raising=False)
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.startswith(("acme", "w8a8_bench_provider_")):
            del sys.modules[name]


def test_a_file_is_a_provider_with_its_kernels_and_its_version(monkeypatch, tmp_path):
    (found,) = by_file(monkeypatch, write(tmp_path / "acme.py", GOOD))
    assert (found.name, found.fault, found.kernels, found.on_request) == ("acme", "", (KERNEL,), ())
    assert str(found.probe()) == "1.2"
    assert found.make(KERNEL).name == KERNEL


def test_a_file_called_as_a_library_does_not_stand_in_its_way(monkeypatch, tmp_path):
    (found,) = by_file(monkeypatch, write(tmp_path / "json.py", GOOD.replace("acme", "json")))
    assert found.fault == ""
    assert sys.modules["json"].__file__ != str(tmp_path / "json.py")


@pytest.mark.parametrize("value", ["acme_w8a8", "acme_w8a8:namespace"])
def test_an_entry_point_names_a_module_or_an_object_with_its_members(monkeypatch, tmp_path, value):
    members = "import types\nnamespace = types.SimpleNamespace(KERNELS=KERNELS, probe=probe, kernel=kernel)\n"
    write(tmp_path / "acme_w8a8.py", textwrap.dedent(GOOD) + members)
    by_entry_point(monkeypatch, tmp_path, f"acme = {value}")
    (found,) = third_party.find([])
    assert (found.name, found.fault, found.origin) == ("acme", "", "acme_w8a8 1.0")
    assert found.make(KERNEL).name == KERNEL


FAULTS = {
    "a library that is not there": ("import nowhere_at_all", "ModuleNotFoundError: No module named 'nowhere_at_all'"),
    "a stub that raises": ("raise RuntimeError('built for CUDA 11')", "RuntimeError: built for CUDA 11"),
    "a stub that exits": ("raise SystemExit('no GPU')", "SystemExit: no GPU"),
    "no Python": ("def probe(:", "SyntaxError"),
    "no names": ("def probe(): ...", "KERNELS is missing"),
    "an empty list of names": ("KERNELS = ()", "KERNELS is empty"),
    "a name instead of names": (f"KERNELS = '{KERNEL}'", "expected a tuple of kernel names"),
    "numbers for names": ("KERNELS = (5,)", "KERNELS has 5: expected names of kernels"),
    "an exit that is no error": ("class End(BaseException): ...\nraise End('odd')", "End: odd (acme.py, line 2)"),
    "a name outside the grammar": ("KERNELS = ('acme_mm',)", "kernel name 'acme_mm': expected {provider}"),
    "two formats": ("KERNELS = ('acme_i8_fp8_bf16_scaled_mm',)", "a is i8 and b is fp8: expected the same"),
    "an unknown variant": (
        "KERNELS = ('acme_i8_i8_bf16_scaled_mm_fast',)",
        "variant 'fast' of scaled_mm is unknown: expected one of bias, azp",
    ),
    "another provider's name": ("KERNELS = ('apex_i8_i8_bf16_scaled_mm',)", "of provider 'apex'"),
    "a built-in kernel's name": ("KERNELS = ('pytorch_i8_i8_bf16_scaled_mm',)", "of provider 'pytorch'"),
    "another's on request": (f"KERNELS = ('{KERNEL}',)\nON_REQUEST = ('apex_i8_i8_bf16_scaled_mm',)", "'apex'"),
    "a name twice": (f"KERNELS = ('{KERNEL}', '{KERNEL}')", f"KERNELS has '{KERNEL}' twice"),
    "a name in both": (f"KERNELS = ON_REQUEST = ('{KERNEL}',)", "is in KERNELS and in ON_REQUEST"),
    "an error without a text": (
        "class Mute(Exception):\n    def __str__(self):\n        raise RuntimeError\nraise Mute",
        "Mute: its text can't be made: RuntimeError",
    ),
    "no probe": (f"KERNELS = ('{KERNEL}',)", "probe() is missing"),
    "no kernel": (f"KERNELS = ('{KERNEL}',)\ndef probe(): ...", "kernel() is missing"),
}


@pytest.mark.parametrize("what", FAULTS)
def test_a_module_that_is_no_provider_is_a_reason(monkeypatch, tmp_path, what):
    body, says = FAULTS[what]
    (found,) = by_file(monkeypatch, write(tmp_path / "acme.py", body))
    assert (found.name, found.kernels) == ("acme", ())
    assert says in found.fault
    assert says in str(found.probe())


@pytest.mark.parametrize(
    ("file", "says"),
    [("acme.txt", "is no Python file"), ("acme-kernels.py", "small letters"), ("gone.py", "there is no file")],
)
def test_a_path_that_is_no_provider_is_a_reason(monkeypatch, tmp_path, file, says):
    if file != "gone.py":
        write(tmp_path / file, GOOD)
    (found,) = by_file(monkeypatch, tmp_path / file)
    assert says in found.fault


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ("acme = acme_gone", "ModuleNotFoundError: No module named 'acme_gone'"),
        ("acme = acme_w8a8.py", "ModuleNotFoundError: No module named 'acme_w8a8.py'"),
        ("acme = acme_w8a8:gone", "AttributeError: module 'acme_w8a8' has no attribute 'gone'"),
        ("acme = acme_w8a8:KERNELS", "KERNELS is missing"),
        ("Acme = acme_w8a8", "its entry point is called 'Acme'"),
        ("pytorch = acme_w8a8", "a built-in provider has this name"),
        ("apex = acme_w8a8", "of provider 'acme', and this one is called 'apex'"),
    ],
)
def test_an_entry_point_that_leads_nowhere_is_a_reason(monkeypatch, tmp_path, entry, says):
    write(tmp_path / "acme_w8a8.py", GOOD)
    by_entry_point(monkeypatch, tmp_path, entry)
    (found,) = third_party.find(["pytorch"])
    assert found.name == entry.partition(" ")[0]
    assert says in found.fault


def test_the_first_of_two_of_one_name_is_taken_and_the_other_says_so(monkeypatch, tmp_path):
    write(tmp_path / "acme_w8a8.py", GOOD)
    by_entry_point(monkeypatch, tmp_path, "acme = acme_w8a8")
    file = write(tmp_path / "mine" / "acme.py", GOOD)
    mine, installed = by_file(monkeypatch, file)
    assert (mine.fault, mine.origin) == ("", str(file))
    assert str(file) in installed.fault


def test_a_distribution_behind_another_version_of_itself_is_not_asked(monkeypatch, tmp_path):
    write(tmp_path / "new" / "acme_w8a8.py", GOOD)
    by_entry_point(monkeypatch, tmp_path / "old", "acme = acme_gone", "acme_w8a8-0.9")
    by_entry_point(monkeypatch, tmp_path / "new", "acme = acme_w8a8")
    (found,) = third_party.find([])
    assert (found.fault, found.origin) == ("", "acme_w8a8 1.0")


def test_other_groups_and_other_distributions_are_not_read(monkeypatch, tmp_path):
    write(tmp_path / "other-1.0.dist-info" / "entry_points.txt", "[console_scripts]\nw8a8_bench = other:main\n")
    write(tmp_path / "both-1.0.dist-info" / "entry_points.txt", "[console_scripts]\nx = w8a8_bench.providers:main\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert third_party.find([]) == ()


def planted(monkeypatch, tmp_path, *edits: tuple[str, str], package: str = "") -> Provider:
    """GOOD with something else in place of some of it."""
    body = GOOD
    for old, new in edits:
        assert old in body
        body = body.replace(old, new)
    (found,) = by_file(monkeypatch, write(tmp_path / "acme.py", body))
    assert found.fault == ""
    return found


def refusal(kernel: Kernel) -> str:
    problem = KernelName.parse(KERNEL).problem(GemmShape(m=1, n=1, k=1), Format.INT8, PER_TENSOR)
    support = kernel.supports(problem, CPU)
    assert not support
    return support.reason


def fault(provider: Provider) -> str:
    """What making its kernel raises, which is not a refusal."""
    with pytest.raises(BaseException):  # noqa: B017  whatever the provider raised
        provider.make(KERNEL)
    return provider.load().reason


@pytest.mark.parametrize(
    ("instead", "says"),
    [
        ("raise OSError('libcudart.so.11: cannot open shared object file')", "libcudart.so.11"),
        ("raise ImportError('undefined symbol: _ZN3c10')", "undefined symbol: _ZN3c10"),
        ("raise RuntimeError('built for CUDA 11')", "RuntimeError: built for CUDA 11"),
        ("from w8a8_bench.kernel import Refused; raise Refused('not on this machine')", "Refused: not on this machine"),
        (
            "raise NotImplementedError('not for this GPU')",
            "acme 1.2 does not load: NotImplementedError: not for this GPU",
        ),
    ],
)
def test_a_library_that_does_not_load_is_a_reason(monkeypatch, tmp_path, instead, says):
    provider = planted(monkeypatch, tmp_path, ("return Kernel()", instead))
    assert provider.probe()
    assert says in refusal(provider.make(KERNEL))
    assert says in provider.load().reason
    with pytest.raises(RuntimeError, match="ask `supports` first"):
        provider.make(KERNEL).prepare(None, CPU)


def test_what_has_no_repr_is_told_of_by_its_type(monkeypatch, tmp_path):
    mute = "class Mute:\n        def __repr__(self):\n            raise RuntimeError\n    def kernel(name):"
    provider = planted(monkeypatch, tmp_path, ("def kernel(name):", mute), ("return Kernel()", "return Mute()"))
    with pytest.raises(TypeError, match="gave <Mute whose repr raises RuntimeError>: expected an object with the name"):
        provider.make(KERNEL)


def test_a_third_partys_file_has_a_fingerprint_and_a_built_in_none(monkeypatch, tmp_path):
    (found,) = by_file(monkeypatch, write(tmp_path / "acme.py", GOOD))
    first = found.source()
    assert re.fullmatch("[0-9a-f]{16}", first)
    write(tmp_path / "acme.py", GOOD + "    # edited\n")
    assert found.source() not in ("", first)
    (tmp_path / "acme.py").unlink()
    assert found.source() == "unknown: No such file or directory"
    assert all(provider.source() == "" for provider in registry.PROVIDERS)


def test_what_a_module_prints_is_not_among_what_is_asked_for(monkeypatch, tmp_path, capsys):
    chatty = ("def probe():", "print('Acme 1.2')\n    def probe():\n        print('asked')")
    found = planted(monkeypatch, tmp_path, chatty)
    assert found.probe() and found.make(KERNEL)
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "Acme 1.2" in printed.err and "asked" in printed.err


def test_what_c_code_of_a_module_prints_is_on_standard_error(monkeypatch, tmp_path, capfd):
    planted(monkeypatch, tmp_path, ("def probe():", "import os; os.write(1, b'noise'); os.close(1)\n    def probe():"))
    print("mine")
    printed = capfd.readouterr()
    assert (printed.out, "noise" in printed.err) == ("mine\n", True)


@pytest.mark.parametrize("how", ["sys.stdout = None", "sys.stdout.close()"])
def test_a_standard_output_that_a_kernel_took_away_is_nobodys_fault(monkeypatch, tmp_path, how):
    provider = planted(monkeypatch, tmp_path)
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    exec(f"import sys; {how}")
    assert provider.probe()
    assert provider.make(KERNEL).name == KERNEL


def test_an_interrupt_names_the_file_whose_code_ran(monkeypatch, tmp_path):
    provider = planted(monkeypatch, tmp_path, ("return Kernel()", "raise KeyboardInterrupt"))
    with pytest.raises(KeyboardInterrupt, match=r"while the code of .*acme\.py ran"):
        provider.make(KERNEL)


@pytest.mark.usefixtures("peers")
def test_a_provider_that_was_asked_for_and_is_none_by_its_own_mistake_is_bad_input(monkeypatch):
    unfit = Provider("faulty", "", origin="faulty.py", fault="KERNELS is missing", unfit=True, is_peer=True)
    monkeypatch.setattr(registry, "all_providers", lambda: (registry.PROVIDERS[0], unfit))
    for asked in ((None, INT8, ["pytorch", "faulty"]), (["faulty_i8_i8_bf16_scaled_mm"], INT8)):
        with pytest.raises(ValueError, match=r"faulty \(from faulty.py\) can't be used: KERNELS is missing"):
            registry.select(*asked)
    with pytest.raises(ValueError, match=r"'faulti' is unknown: expected one of pytorch; .*; faulty .* can't be used"):
        registry.select(None, INT8, ["faulti"])
    assert registry.select(None, INT8)[0].startswith("pytorch_")
    assert registry.remarks(None, INT8) == ("faulty (from faulty.py) can't be used: KERNELS is missing",)


def test_a_reason_is_a_line_that_no_terminal_obeys(monkeypatch, tmp_path):
    answer = "return Probe.missing('\\x1b[31mnot\\nthere')"
    provider = planted(monkeypatch, tmp_path, ('return Probe.found("1.2")', answer))
    assert provider.probe().reason == "[31mnot there"


def test_what_a_module_raises_says_where(monkeypatch, tmp_path):
    provider = planted(monkeypatch, tmp_path, ('return Probe.found("1.2")', "raise OSError('gone')"))
    line = next(number for number, text in enumerate(GOOD.splitlines(), start=1) if "Probe.found" in text)
    assert provider.probe().reason.endswith(f"(acme.py, line {line})")


@pytest.mark.parametrize(
    ("instead", "says"),
    [
        ("raise OSError('no metadata')", "OSError: no metadata"),
        ("raise RuntimeError('built for CUDA 11')", "RuntimeError: built for CUDA 11"),
    ],
)
def test_a_probe_that_fails_is_a_reason(monkeypatch, tmp_path, instead, says):
    provider = planted(monkeypatch, tmp_path, ('return Probe.found("1.2")', instead))
    probe = provider.probe()
    assert probe.installed and not probe
    assert says in probe.reason
    assert says in refusal(provider.make(KERNEL))


@pytest.mark.parametrize(
    ("instead", "says"),
    [
        ("return Probe.found(None)", "TypeError: Probe: the version is None: expected text"),
        ("return Probe.found((1, 2))", "TypeError: Probe: the version is (1, 2): expected text"),
        ("return Probe.missing(ImportError('x'))", "the reason is ImportError('x'): expected text"),
        ("return Probe.missing('')", "say what, and what to install"),
        ("return Probe('yes')", "installed is 'yes': expected True or False"),
        ("return '1.2'", "probe() gave '1.2': expected a Probe"),
        ("return", "probe() gave None: expected a Probe"),
        ("return Prob.found('1.2')", "NameError: name 'Prob' is not defined"),
        ("import json; json.loads('{')", "JSONDecodeError: "),
        ("raise SystemExit(1)", "SystemExit: 1"),
        ("raise GeneratorExit('gone')", "GeneratorExit: gone"),
        ("return Probe.of('')", "expected the name that the library has in an import"),
    ],
)
def test_what_else_probe_raises_is_a_fault_with_its_line(monkeypatch, tmp_path, instead, says):
    provider = planted(monkeypatch, tmp_path, ('return Probe.found("1.2")', instead))
    assert not provider.probe()
    for reason in (provider.probe().reason, fault(provider)):
        assert says in reason
        assert re.search(r" \(acme\.py, line \d\)$", reason)


@pytest.mark.parametrize(
    ("instead", "says"),
    [
        ("return None", f"kernel() gave None: expected an object with the name '{KERNEL}', supports() and prepare()"),
        ("return Kernel", "kernel() gave <class 'w8a8_bench_provider_acme.Kernel'>: expected an object with the name"),
        ("Kernel.name = 'acme'; return Kernel()", "kernel() gave ...: expected an object with the name"),
        ("Kernel.supports = 5; return Kernel()", "kernel() gave ...: expected an object with the name"),
        ("return Kernl()", "NameError: name 'Kernl' is not defined"),
        ("return Kernel(name, 5)", "TypeError: Kernel() takes no arguments"),
        ("import math; return math.no_such_thing", "AttributeError: module 'math' has no attribute 'no_such_thing'"),
        ("raise ValueError('which one?')", "ValueError: which one?"),
        ("return {}[name]", "KeyError: "),
        ("class Odd(Exception): ...\n        raise Odd('own')", "Odd: own"),
        ("class End(BaseException): ...\n        raise End('own')", "End: own"),
        ("raise SystemExit(1)", "SystemExit: 1"),
    ],
)
def test_what_else_kernel_raises_or_gives_is_a_fault_with_its_line(monkeypatch, tmp_path, instead, says):
    provider = planted(monkeypatch, tmp_path, ("return Kernel()", instead))
    pattern = re.escape(says).replace(re.escape("..."), ".*")
    assert re.match(rf"{pattern}.* \(acme\.py, line \d+\)$", fault(provider))
    assert re.search(pattern, provider.load().reason)


@pytest.mark.parametrize(
    ("body", "unfit"),
    [
        ("KERNELS = (nothing,)", True),
        ("import math\nKERNELS = math.no_such_thing", True),
        ("def probe(:", True),
        ("import nowhere_at_all", False),
        ("raise SystemExit('no GPU')", True),
        ("raise OSError('libcudart.so.11')", False),
    ],
)
def test_only_a_library_that_does_not_load_leaves_a_module_fit(monkeypatch, tmp_path, body, unfit):
    (found,) = by_file(monkeypatch, write(tmp_path / "acme.py", body))
    assert (found.unfit, found.kernels) == (unfit, ())


def test_a_module_that_raises_is_imported_once(monkeypatch, tmp_path):
    write(tmp_path / "acme_slow.py", "import pathlib\nopen(__file__ + '.log', 'a').write('x')\nimport nowhere_at_all\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    provider = Provider("acme", "acme_slow", (KERNEL,), package="json")
    assert ["nowhere_at_all" in refusal(provider.make(KERNEL)) for _ in range(3)] == [True] * 3
    assert (tmp_path / "acme_slow.py.log").read_text() == "x"


def test_a_library_is_probed_without_being_imported(monkeypatch, tmp_path):
    write(tmp_path / "acme_lib" / "__init__.py", "raise RuntimeError('imported')")
    (tmp_path / "acme_leftover").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    assert Probe.of("acme_lib") == Probe.found("unknown version")
    write(tmp_path / "acme_lib-3.4.dist-info" / "METADATA", "Metadata-Version: 2.1\nName: acme-lib\nVersion: 3.4\n")
    assert Probe.of("acme_lib", "acme-lib") == Probe.found("3.4")
    assert Probe.of("acme_leftover") == Probe.missing("acme_leftover is not installed")
    assert Probe.of("acme_gone", "acme-gone") == Probe.missing("acme-gone is not installed")


def peer(name: str, probe: Probe, *kernels: str, fault: str = "") -> Provider:
    class Module:
        @staticmethod
        def probe():
            return probe

    return Provider(name, name, kernels, is_peer=True, origin=f"{name} 1.0", fault=fault, loaded=Module)


HERE = peer("here", Probe.found("1"), "here_i8_i8_bf16_scaled_mm", "here_fp8_fp8_bf16_scaled_mm")
ABSENT = peer("absent", Probe.missing("absent is not installed"), "absent_i8_i8_bf16_scaled_mm")
BROKEN = peer("broken", Probe.broken("no libcudart"), "broken_i8_i8_bf16_scaled_mm")
FAULTY = peer("faulty", Probe.found("1"), fault="ImportError: gone")


@pytest.fixture
def peers(monkeypatch):
    everybody = (registry.PROVIDERS[0], HERE, ABSENT, BROKEN, FAULTY)
    monkeypatch.setattr(registry, "all_providers", lambda: everybody)
    registry.get.cache_clear()
    yield
    registry.get.cache_clear()


@pytest.mark.usefixtures("peers")
class TestSelection:
    def test_by_default_a_peer_runs_where_it_is_installed(self):
        kernels = registry.select(None, INT8)
        assert kernels[0].startswith("pytorch_")
        assert kernels[-2:] == ("here_i8_i8_bf16_scaled_mm", "broken_i8_i8_bf16_scaled_mm")
        assert registry.remarks(None, INT8, cuda=False) == (
            "faulty (from faulty 1.0) can't be used: ImportError: gone",
        )
        assert registry.remarks(None, INT8) == (
            "left out: absent (absent is not installed)",
            "faulty (from faulty 1.0) can't be used: ImportError: gone",
        )

    def test_providers_asked_for_run_and_the_absent_keep_their_rows(self):
        asked = ["absent", "here", "faulty", "here"]
        assert registry.select(None, INT8, asked) == ("absent_i8_i8_bf16_scaled_mm", "here_i8_i8_bf16_scaled_mm")
        assert registry.remarks(None, INT8, asked) == (
            "absent can't run here: absent is not installed",
            "faulty can't run here: ImportError: gone",
        )
        assert refusal(registry.get("absent_i8_i8_bf16_scaled_mm")) == "absent is not installed"

    def test_a_provider_without_a_kernel_for_the_dtype_is_told_of(self):
        assert registry.select(None, FP8, ["here", "broken"]) == ("here_fp8_fp8_bf16_scaled_mm",)
        assert registry.remarks(None, FP8, ["here", "broken"]) == (
            "faulty (from faulty 1.0) can't be used: ImportError: gone",
            "broken can't run here: no libcudart",
        )
        with pytest.raises(ValueError, match="no kernel of absent, broken takes fp8 operands"):
            registry.select(None, FP8, ["absent", "broken"])

    def test_a_kernel_named_of_an_absent_peer_keeps_its_row(self):
        assert registry.select([*ABSENT.kernels, *HERE.kernels[:1]], INT8) == (*ABSENT.kernels, *HERE.kernels[:1])
        assert registry.remarks(ABSENT.kernels, INT8) == (
            "faulty (from faulty 1.0) can't be used: ImportError: gone",
            "absent can't run here: absent is not installed",
        )

    def test_any_kernel_of_a_provider_that_cannot_be_used_has_a_row_that_says_why(self):
        name = "faulty_i8_i8_bf16_scaled_mm"
        assert registry.select([name], INT8) == (name,)
        assert refusal(registry.get(name)) == "ImportError: gone"
        assert isinstance(registry.get(name), UnavailableKernel)
        with pytest.raises(ValueError, match="use --dtype int8"):
            registry.select([name], FP8)
        with pytest.raises(ValueError, match="is unknown"):
            registry.select(["faulty_nothing"], INT8)

    def test_nothing_but_what_cannot_be_used_is_refused_with_the_reason(self):
        with pytest.raises(ValueError, match=r"faulty \(from faulty 1.0\) can't be used: ImportError: gone"):
            registry.select(None, INT8, ["faulty"])

    def test_a_kernel_outside_the_providers_asked_for_is_refused(self):
        assert registry.select(HERE.kernels[:1], INT8, ["here", "pytorch"]) == HERE.kernels[:1]
        with pytest.raises(ValueError, match="'here_i8_i8_bf16_scaled_mm' does not belong to pytorch"):
            registry.select(HERE.kernels[:1], INT8, ["pytorch"])

    def test_an_unknown_provider_is_refused_with_the_nearest(self):
        unusable = r"; faulty \(from faulty 1\.0\) can't be used: ImportError: gone$"
        with pytest.raises(ValueError, match=rf"'pytorhc' is unknown: did you mean pytorch\?{unusable}"):
            registry.select(None, INT8, ["pytorhc"])
        expected = "expected one of pytorch, here, absent, broken, faulty; for .* set W8A8_BENCH_PROVIDERS=PATH/zzz.py"
        with pytest.raises(ValueError, match=expected):
            registry.select(None, INT8, ["zzz"])
        with pytest.raises(
            ValueError, match=f"for a provider in a file of its own, set W8A8_BENCH_PROVIDERS=PATH/acme.py{unusable}"
        ):
            registry.select([KERNEL], INT8)

    def test_the_environment_has_each_version_or_the_reason(self):
        versions = registry.versions()
        assert list(versions) == ["pytorch", "here", "absent", "broken", "faulty"]
        assert [versions[name] for name in ("here", "absent", "broken", "faulty")] == [
            "1",
            "absent is not installed",
            "no libcudart",
            "ImportError: gone",
        ]


def test_a_third_partys_name_that_is_taken_takes_nothing_from_its_owner(monkeypatch):
    clash = peer("pytorch", Probe.found("1"), fault="a built-in provider has this name: rename it")
    monkeypatch.setattr(registry, "all_providers", lambda: (registry.PROVIDERS[0], clash))
    assert registry.versions() == {"pytorch": registry.PROVIDERS[0].probe().version}
    assert registry.select(None, INT8, ["pytorch"])[0].startswith("pytorch_")
    with pytest.raises(ValueError, match="is unknown"):
        registry.select(["pytorch_i8_i8_fp16_scaled_mm"], INT8)


def test_the_name_of_a_provider_whose_kernels_all_run_on_request_asks_for_them():
    assert registry.select(None, INT8, ["inductor"]) == (
        "inductor_i8_i8_bf16_scaled_mm",
        "inductor_i8_i8_bf16_scaled_mm_bias",
    )
    both = registry.select(None, INT8, ["triton", "inductor"])
    assert "triton_i8_i8_fp16_scaled_mm" not in both, "others' are still left to be asked for by name"
