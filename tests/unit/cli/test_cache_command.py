"""`cache show` and `cache clear` on the command line."""

from __future__ import annotations

import subprocess
import sys

import pytest

from w8a8_bench import cache
from w8a8_bench.cli.errors import EXIT_BAD_INPUT, EXIT_COMPLETE
from w8a8_bench.cli.main import main


@pytest.fixture
def root(monkeypatch, tmp_path):
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def run(root, capsys):
    """Run a command line; gives the exit code, standard output and standard error."""

    def run(*words):
        code = main(words)
        return (code, *capsys.readouterr())

    return run


def fill(*parts):
    for part in parts:
        cache.write(cache.path_of(part, 1), {"x": "y" * 2**20})


def test_a_cache_that_is_not_there_is_shown_and_not_made(run, root):
    code, out, _ = run("cache", "show")
    assert code == EXIT_COMPLETE
    assert out.splitlines()[0] == str(root)
    assert out.splitlines()[-1].split() == ["total", "0", "0.00", "MiB"]
    assert not root.exists()
    assert run("cache", "clear") == (EXIT_COMPLETE, f"{root}: there was nothing to remove\n", "")
    assert not root.exists()


def test_every_part_is_shown_with_what_it_holds(run):
    fill("cutlass", "triton")
    lines = run("cache", "show")[1].splitlines()
    assert [line.split()[0] for line in lines[1:]] == ["part", *cache.PARTS, "total"]
    ends = {line.split()[0]: line.split()[-3:] for line in lines[2:]}
    assert ends["cutlass"] == ["1", "1.00", "MiB"]
    assert ends["deepgemm"] == ["0", "0.00", "MiB"]
    assert ends["total"] == ["2", "2.00", "MiB"]


@pytest.mark.parametrize("words", [["triton", "cublaslt"], ["triton,cublaslt"], ["triton,", "cublaslt"]])
def test_named_parts_are_removed_and_said(run, root, words):
    fill("cutlass", "triton", "cublaslt")
    code, out, _ = run("cache", "clear", *words)
    assert code == EXIT_COMPLETE
    assert out.splitlines() == [str(root), "removed triton: 1 file, 1.00 MiB", "removed cublaslt: 1 file, 1.00 MiB"]
    assert {one.part for one in cache.contents() if one.files} == {"cutlass"}


def test_all_parts_are_removed_if_none_is_named(run):
    fill(*cache.PARTS)
    assert [line.split()[1] for line in run("cache", "clear")[1].splitlines()[1:]] == [f"{p}:" for p in cache.PARTS]
    assert not any(one.files for one in cache.contents())


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["clear", "cutlas"], "cache clear 'cutlas': expected one of cutlass, triton, "),
        (["clear", "cutlass,,triton"], "PART 'cutlass,,triton': a value is empty"),
        (["clear", ""], "PART '': a value is empty"),
        (["show", "cutlass"], "cache show takes no PART: cutlass"),
        (["empty"], "cache 'empty': expected show or clear"),
        ([], "the following arguments are required: show|clear"),
        (["clear", "--all"], "unrecognized arguments: --all"),
    ],
)
def test_misuse_is_one_line_and_removes_nothing(run, words, says):
    fill("cutlass", "triton")
    code, out, said = run("cache", *words)
    assert (code, out) == (EXIT_BAD_INPUT, "")
    assert says in said and said.count("\n") == 1
    assert sum(one.files for one in cache.contents()) == 2


def test_somebody_elses_directory_is_not_cleared(run, root):
    (root / "cutlass").mkdir(parents=True)
    (root / "cutlass" / "mine").write_text("")
    code, _, said = run("cache", "clear", "cutlass")
    assert code == EXIT_BAD_INPUT
    assert "correct W8A8_BENCH_CACHE" in said and said.count("\n") == 1
    assert (root / "cutlass" / "mine").exists()


def test_the_command_imports_no_library():
    program = (
        "import sys\n"
        "from w8a8_bench.cli.main import main\n"
        "main(['cache', 'show'])\n"
        "heavy = {'torch', 'numpy', 'rich', 'triton'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)\n"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr


def test_a_file_in_place_of_the_cache_is_named_with_the_variable(run, root):
    root.write_text("")
    for what in ("show", "clear"):
        code, _, err = run("cache", what)
        assert code == EXIT_BAD_INPUT
        assert err.endswith(f"{root} is not a directory: {cache.VARIABLE} names where the cache is\n")


def test_a_part_that_can_not_be_removed_is_named(run, monkeypatch):
    def refuses(*parts):
        raise PermissionError(13, "Permission denied", "triton/x.json")

    fill("triton")
    monkeypatch.setattr(cache, "clear", refuses)
    code, _, err = run("cache", "clear")
    assert code == EXIT_BAD_INPUT
    assert "can't be cleared: Permission denied: triton/x.json; remove it yourself" in err
