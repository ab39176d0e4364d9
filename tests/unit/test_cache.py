"""The cache on disk: entries are whole or not there, a root is known as ours, and nobody else's files are removed."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from w8a8_bench import cache

ENTRY = ("cublaslt", "13.1", 16)


@pytest.fixture
def root(monkeypatch, tmp_path):
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "cache"))
    cache._say_once.cache_clear()
    yield tmp_path / "cache"
    cache._say_once.cache_clear()


def run(program: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_where_it_is(monkeypatch, tmp_path):
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path))
    assert cache.root() == tmp_path
    monkeypatch.setenv(cache.VARIABLE, "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache.root() == tmp_path / "xdg" / "w8a8-bench"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache.root() == tmp_path / ".cache" / "w8a8-bench"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(cache.VARIABLE, "here")
    assert cache.root() == tmp_path / "here", "a worker may have another working directory"


def test_an_entry_is_found_by_all_that_it_depends_on_and_by_nothing_else(root):
    path = cache.path_of(*ENTRY)
    assert cache.read(path) is None
    assert cache.write(path, {"tile": 3})
    assert cache.read(cache.path_of(*ENTRY)) == {"tile": 3}
    for other in (("cublaslt", "13.2", 16), ("choices", "13.1", 16), ("cublaslt", "13.1", 17), ("cublaslt", "13.1")):
        assert cache.read(cache.path_of(*other)) is None, other
    assert [one.name for one in path.parent.iterdir()] == [path.name], "something was left beside the entry"


@pytest.mark.parametrize("text", [b"", b'{"tile": 3', b"\xff\xfe", b"\0" * 20, b"[" * 100_000])
def test_a_damaged_entry_is_none_and_can_be_written_anew(root, text):
    path = cache.path_of(*ENTRY)
    cache.write(path, {"tile": 3})
    path.write_bytes(text)
    assert cache.read(path) is None
    assert cache.write(path, {"tile": 4})
    assert cache.read(path) == {"tile": 4}


def test_a_root_that_was_new_or_empty_is_tagged(root):
    cache.write(cache.path_of(*ENTRY), {})
    tag = (root / "CACHEDIR.TAG").read_text()
    assert tag.splitlines()[0] == "Signature: 8a477f597d28d172789f06886806bc55"
    assert "w8a8-bench" in tag.splitlines()[1]
    cache.clear()
    (root / "CACHEDIR.TAG").unlink()
    cache.make_directory(root)
    assert (root / "CACHEDIR.TAG").exists(), "an empty directory is as good as none"


def test_a_root_that_holds_anything_else_is_not_tagged_and_not_cleared(root):
    (root / "cutlass").mkdir(parents=True)
    (root / "cutlass" / "thesis.tex").write_text("")
    cache.write(cache.path_of(*ENTRY), {})
    with pytest.raises(ValueError, match=f"{root} has no CACHEDIR.TAG of w8a8-bench"):
        cache.clear()
    assert (root / "cutlass" / "thesis.tex").exists()
    (root / cache.TAG).write_text("Signature: 8a477f597d28d172789f06886806bc55\n# of another program\n")
    with pytest.raises(ValueError, match="somebody else's"):
        cache.clear(("cutlass",))


def test_the_default_directory_of_versions_that_wrote_no_tag_is_cleared(monkeypatch, tmp_path):
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "w8a8-bench"))
    old = tmp_path / "w8a8-bench" / "cutlass" / "f00"
    old.mkdir(parents=True)
    (old / "kernel.o").write_bytes(b"123")
    assert [one for one in cache.clear() if one.files] == [cache.Content("cutlass", 1, 3)]
    assert not old.parent.exists()


def test_parts_are_counted_and_cleared_apart_and_marks_go_with_any_of_them(root):
    for part in cache.PARTS:
        cache.write(cache.path_of(part, 1), {"x": 1})
    assert cache.contents() == [cache.Content(part, 1, 8) for part in cache.PARTS]
    assert cache.clear(("triton",)) == [cache.Content("triton", 1, 8), cache.Content("compiled", 1, 8)]
    assert {one.part: one.files for one in cache.contents()} == {
        part: part not in ("triton", "compiled") for part in cache.PARTS
    }
    cache.clear()
    assert sorted(root.iterdir()) == [root / cache.TAG]
    assert all(one.files == 0 for one in cache.clear()), "cleared twice"


def test_what_a_link_leads_to_is_not_removed(root, tmp_path):
    cache.make_directory(root)
    (tmp_path / "scratch").mkdir()
    (tmp_path / "scratch" / "other").write_text("")
    (root / "triton").symlink_to(tmp_path / "scratch")
    cache.clear()
    assert not (root / "triton").is_symlink()
    assert (tmp_path / "scratch" / "other").exists()


def test_a_full_disk_is_said_once_and_leaves_nothing_behind(root):
    program = """
import resource, signal
from w8a8_bench import cache
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
small, path = cache.path_of("cublaslt", "small"), cache.path_of("cublaslt", "large")
assert cache.write(small, {})
resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))
for _ in range(2):
    assert cache.write(path, {"x": "x" * 10_000}) is False
    assert cache.read(path) is None
assert cache.read(small) == {}
"""
    with run(program) as process:
        _, said = process.communicate(timeout=120)
    assert process.returncode == 0, said
    assert said.count(f"nothing can be kept in {root} (File too large)") == 1
    assert len([path for path in root.rglob("*") if path.is_file()]) == 2, "more than the tag and the small entry"


def test_a_disk_that_is_full_from_the_start_leaves_no_half_of_a_tag(root):
    program = """
import resource, signal
from w8a8_bench import cache
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (10, resource.RLIM_INFINITY))
assert cache.write(cache.path_of("cublaslt"), {"x": "x" * 10_000}) is False
"""
    with run(program) as process:
        _, said = process.communicate(timeout=120)
    assert process.returncode == 0, said
    cache.write(cache.path_of(*ENTRY), {})
    assert (root / cache.TAG).read_text() == cache.TAG_TEXT


def test_a_root_that_can_not_be_made_is_said_and_libraries_keep_their_own_places(root, capsys, monkeypatch):
    root.write_text("a file")
    assert cache.write(cache.path_of(*ENTRY), {}) is False
    assert f"nothing can be kept in {root}" in capsys.readouterr().err
    for name in cache.LIBRARIES:
        monkeypatch.delenv(name, raising=False)
    assert cache.library_environment() == {}


def test_libraries_are_told_of_a_directory_that_is_tagged_unless_the_user_chose_one(root, monkeypatch):
    for name in cache.LIBRARIES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DG_JIT_CACHE_DIR", "/mine")
    told = {name: str(root / part) for name, part in cache.LIBRARIES.items() if part != "deepgemm"}
    assert cache.library_environment() == told and len(told) == len(cache.LIBRARIES) - 1
    assert (root / cache.TAG).exists() and all((root / part).is_dir() for part in ("triton", "inductor", "flashinfer"))


def test_two_processes_that_write_one_entry_at_once_leave_it_whole(root):
    program = """
import sys
from w8a8_bench import cache
path = cache.path_of("cublaslt", "shared")
for number in range(300):
    assert cache.write(path, {"by": sys.argv[1:], "fill": "x" * (50 * number)})
    found = cache.read(path)
    assert found is not None and len(found["fill"]) % 50 == 0, found
"""
    processes = [run(program) for _ in range(2)]
    for process in processes:
        with process:
            _, said = process.communicate(timeout=120)
        assert process.returncode == 0, said
    path = cache.path_of("cublaslt", "shared")
    assert len(json.loads(path.read_text())["fill"]) == 50 * 299
    assert list(path.parent.iterdir()) == [path]
    assert (root / cache.TAG).read_text() == cache.TAG_TEXT
