"""The command as a user meets it: the original's door, files, interruptions, resuming, exit codes, start-up."""

from __future__ import annotations

import json
import pickle
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import DOOR, ROOT, environment

from w8a8_bench.cli import main, sweep
from w8a8_bench.results import json_lines
from w8a8_bench.results.record import SCHEMA

CPU = ("--device", "cpu")
SQUARE = ("square_bench", "--dim-start", "16", "--dim-end", "32", "--dim-increment", "16")
QUICK = ("--rigor", "quick")
FAST = (*CPU, *QUICK)
KERNELS = ("pytorch_bf16_bf16_bf16_matmul-no-scales", "pytorch_i8_i8_bf16_scaled_mm")
TWENTY = ("square_bench", "--dim-start", "8", "--dim-end", "160", "--dim-increment", "8")
INT8 = ("--dtype", "int8", *FAST, "--kernels", *KERNELS, "--out", "r.jsonl")


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """The directory of a sweep of `INT8` over `SQUARE` that has ended: r.jsonl and r.pkl."""
    directory = tmp_path_factory.mktemp("finished")
    command = [sys.executable, "-m", "w8a8_bench", *INT8, *SQUARE]
    subprocess.run(command, cwd=directory, env=environment(), capture_output=True, timeout=300, check=True)
    return directory


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def cells(path: Path) -> list[tuple]:
    return [
        (line["comparison"], line["kernel"], json.dumps(line["problem"], sort_keys=True), line["status"])
        for line in lines(path)
        if line["kind"] == "cell"
    ]


ORDERS = {
    "before": ("--dtype", "int8", *FAST, "--kernels", *KERNELS, *SQUARE),
    "after": ("--dtype", "int8", *FAST, *SQUARE, "--kernels", *KERNELS),
    "before the flags": ("--dtype", "int8", *FAST, SQUARE[0], "--kernels", *KERNELS, *SQUARE[1:]),
}


@pytest.mark.parametrize("where", ORDERS)
def test_kernels_may_stand_anywhere(cli_here, tmp_path, where):
    result = cli_here(*ORDERS[where])
    assert result.returncode == 0, result.stderr
    (records,) = tmp_path.glob("square_bench-torch.int8-*.jsonl")
    assert [cell[1] for cell in cells(records)] == [*KERNELS, *KERNELS]


@pytest.mark.parametrize(
    "where", [pytest.param(where, marks=[pytest.mark.slow] * (where != "after")) for where in ORDERS]
)
def test_kernels_may_stand_anywhere_for_the_script(cli, tmp_path, where):
    result = cli(*ORDERS[where], door=True)
    assert result.returncode == 0, result.stderr
    (records,) = tmp_path.glob("square_bench-torch.int8-*.jsonl")
    assert [cell[1] for cell in cells(records)] == [*KERNELS, *KERNELS]


def test_pickle_loads_with_torch_alone(finished):
    program = (
        "import pickle, sys, torch.utils.benchmark as b\n"
        "data = pickle.load(open('r.pkl', 'rb'))\n"
        "assert all(isinstance(one, b.Measurement) for one in data)\n"
        "b.Compare(data).print()\n"
        "print(len(data), data[0].task_spec.label, data[0].task_spec.sub_label, data[0].task_spec.description)\n"
    )
    barred = "import sys\nsys.modules['w8a8_bench'] = None\n"  # importing it raises, installed or not
    result = subprocess.run(
        [sys.executable, "-I", "-c", barred + program], cwd=finished, capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == f"4 scaled-torch.int8-gemm MKN=(16x16x16) {KERNELS[0]}"


def test_functions_are_importable_from_the_repository_root(tmp_path):
    program = (
        "import torch\n"
        "from torch.utils.benchmark import Compare, Measurement\n"
        "from benchmarks.cutlass_benchmarks.w8a8_benchmarks import bench_fp8, bench_int8\n"
        "one = bench_int8(torch.int8, 17, 32, 48, 'L', 'S', ['pytorch_i8_i8_bf16_scaled_mm'])\n"
        "assert [m.task_spec.description for m in one] == ['pytorch_i8_i8_bf16_scaled_mm']\n"
        "assert (one[0].task_spec.label, one[0].task_spec.sub_label) == ('L', 'S')\n"
        "all_ = bench_fp8(dtype=torch.float8_e4m3fn, m=16, k=32, n=48, label='L', sub_label='S', bench_kernels=None)\n"
        "assert len(all_) >= 6 and all(isinstance(m, Measurement) for m in all_)\n"
        "Compare(one + all_).print()\n"
        "for call, wrong in ((bench_int8, torch.float8_e4m3fn), (bench_fp8, torch.int8)):\n"
        "    try:\n"
        "        call(wrong, 16, 16, 16, '', '')\n"
        "    except ValueError as error:\n"
        "        print('refused:', error)\n"
        "    else:\n"
        "        raise SystemExit('a wrong dtype was taken')\n"
    )
    env = environment()
    del env["PYTHONPATH"]
    env["CUDA_VISIBLE_DEVICES"] = ""
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=env, capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stderr
    assert "cutlass_fp8_fp8_bf16_scaled_mm is left out: unsupported" in result.stderr
    assert result.stdout.count("refused: dtype") == 2


def test_out_that_exists_is_refused_and_kept(cli_here, tmp_path):
    kept = tmp_path / "r.jsonl"
    kept.write_text("mine\n")
    result = cli_here("--dtype", "int8", *CPU, *SQUARE, "--out", "r.jsonl")
    assert (result.returncode, len(result.stderr.splitlines())) == (2, 1)
    assert "r.jsonl exists" in result.stderr
    assert kept.read_text() == "mine\n"


def test_a_bad_csv_row_is_named_by_its_line(cli_here, tmp_path):
    (tmp_path / "shapes.csv").write_text("m,n,k\n16,16,16\n16,x,16\n")
    result = cli_here("--dtype", "int8", "csv_bench", "--csv", "shapes.csv", *CPU)
    assert result.returncode == 2
    assert "line 3" in result.stderr and "'x'" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["shapes.csv"]


def test_more_memory_than_the_device_has_is_refused_before_anything_is_allocated(cli_here, tmp_path):
    size = "46340"
    result = cli_here(
        *("--dtype", "int8", *CPU, "square_bench", "--dim-start", size, "--dim-end", size, "--dim-increment", "1")
    )
    assert (result.returncode, len(result.stderr.splitlines())) == (2, 1), result.stderr
    assert "GiB" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_missing_torch_says_which_extra_to_install(tmp_path):
    program = (
        "import sys, runpy\n"
        "sys.modules['torch'] = None\n"
        "import importlib.util\n"
        "find = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *a: None if name == 'torch' else find(name, *a)\n"
        f"sys.argv = ['w8a8_benchmarks.py', '--dtype', 'int8', *{SQUARE!r}]\n"
        f"runpy.run_path({str(DOOR)!r}, run_name='__main__')\n"
    )
    result = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert result.returncode == 2
    assert "pip install '.[cpu]'" in result.stderr and "Traceback" not in result.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        ("raise ImportError('libcudart.so.12: cannot open')", "ImportError: libcudart.so.12: cannot open"),
        ("import ctypes; ctypes.CDLL('libgone.so.99')", "OSError: libgone.so.99"),
        ("", "has no attribute 'cuda'"),
    ],
)
@pytest.mark.parametrize("command", [SQUARE, ("doctor",)], ids=["sweep", "doctor"])
def test_a_torch_that_does_not_load_is_one_line(tmp_path, command, broken, says):
    (tmp_path / "site/torch").mkdir(parents=True)
    (tmp_path / "site/torch/__init__.py").write_text(broken)
    env = {**environment(), "PYTHONPATH": f"{ROOT / 'src'}:{tmp_path / 'site'}"}
    words = [*command, *CPU] if command == ("doctor",) else ["--dtype", "int8", *CPU, *command]
    result = subprocess.run(
        [sys.executable, "-m", "w8a8_bench", *words], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300
    )
    assert (result.returncode, len(result.stderr.splitlines())) == (2, 1), result.stderr
    assert "torch can't be imported: " in result.stderr and says in result.stderr
    assert "install it anew" in result.stderr


def test_a_temporary_file_that_can_not_be_written_is_named_with_the_remedy(tmp_path):
    result = shell(tmp_path, f"--dtype int8 --device cpu {' '.join(SQUARE)} --out r.jsonl", before="ulimit -f 1; ")
    assert result.returncode == 2
    assert "no temporary file can be written in" in result.stderr and "TMPDIR" in result.stderr


def start(tmp_path: Path, *words: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "w8a8_bench", "--dtype", "int8", *CPU, *words, "--kernels", *KERNELS, "--out=r.jsonl"],
        cwd=tmp_path, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def wait_for_comparisons(path: Path, count: int) -> None:
    """Until `count` comparisons are recorded; five minutes are far more than they take."""
    end = time.monotonic() + 300
    while time.monotonic() < end:
        if path.exists() and path.read_text().count('"kind": "comparison"') >= count:
            return
        time.sleep(0.02)
    raise AssertionError(f"{count} comparisons were not recorded within five minutes")


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_interrupting_keeps_records_and_says_how_to_go_on(tmp_path, how):
    process = start(tmp_path, *TWENTY)
    wait_for_comparisons(tmp_path / "r.jsonl", 2)
    process.send_signal(how)
    stderr = process.communicate(timeout=300)[1]
    assert process.returncode == 130
    assert "Traceback" not in stderr
    assert "--resume" in stderr
    assert len(cells(tmp_path / "r.jsonl")) >= 4
    assert pickle.loads((tmp_path / "r.pkl").read_bytes())


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--out", "r.jsonl"), "r.jsonl exists: add --resume"),
        (("--out", "r.jsonl", "--resume", "--seed", "1"), "its seed is 0 and here it is 1"),
        (("--out", "missing/r.jsonl"), "there is no directory missing"),
        (("--measure", "hot"), "--measure hot needs --timer graph"),
    ],
)
def test_what_needs_no_device_is_refused_before_a_worker_starts(finished, monkeypatch, capsys, words, says):
    monkeypatch.chdir(finished)
    monkeypatch.setattr(sweep, "_StartedWorkers", lambda *_: pytest.fail("a worker was started"))
    monkeypatch.setattr(main.interrupt, "install", lambda: None)
    assert main.main(["--dtype", "int8", *FAST, "--kernels", *KERNELS, *SQUARE, *words]) == 2
    assert says in capsys.readouterr().err


def test_resuming_another_sweep_is_refused(cli_here, tmp_path, finished):
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    before = (tmp_path / "r.jsonl").read_bytes()
    result = cli_here(*INT8, *SQUARE, "--seed", "1", "--resume")
    assert (result.returncode, len(result.stderr.splitlines())) == (2, 1)
    assert "seed" in result.stderr
    assert (tmp_path / "r.jsonl").read_bytes() == before


def test_a_spent_budget_is_recorded_as_skipped(cli_here, tmp_path):
    result = cli_here(
        *("--dtype", "int8", *CPU, "square_bench", "--dim-start", "256", "--dim-end", "256", "--dim-increment", "1"),
        *("--budget", "0.001", "--out", "r.jsonl"),
    )
    assert result.returncode == 0, result.stderr
    statuses = {line["status"] for line in lines(tmp_path / "r.jsonl") if line["kind"] == "cell"}
    assert "skipped" in statuses
    assert all(line["reason"] for line in lines(tmp_path / "r.jsonl") if line.get("status") == "skipped")


ONE = ("square_bench", "--dim-start", "32", "--dim-end", "32", "--dim-increment", "1", "--kernels", *KERNELS)


def timed(path: Path) -> list[dict]:
    found = [line for line in lines(path) if line["kind"] == "cell"]
    assert [line["status"] for line in found] == ["ok"] * len(KERNELS)
    return found


def test_quick_rigor_takes_no_more_blocks_than_it_says(cli_here, tmp_path):
    result = cli_here("--dtype", "int8", *CPU, *ONE, "--rigor", "quick", "--out", "r.jsonl")
    assert result.returncode == 0, result.stderr
    for line in timed(tmp_path / "r.jsonl"):
        assert 6 <= len(line["samples"]["time_host"]) <= 12
        assert line["blocks"]["time_host"] == list(range(len(line["samples"]["time_host"])))
    header, *_, end = lines(tmp_path / "r.jsonl")
    assert header["schema"] == SCHEMA
    assert header["settings"]["stop"]["max_blocks"] == 12
    assert end["duplicate"]["kernel"] == KERNELS[0]
    assert len(end["duplicate"]["samples"]["time_host"]) == end["blocks"] <= 12
    assert "noise floor: " in result.stdout
    phases = r"preparing \S+ s, checking \S+ s, timing \S+ s, resting 0.0 s, other "
    assert re.search(rf"^took \S+ s: {phases}", result.stdout, re.MULTILINE)


def test_fresh_processes_are_each_sampled_and_their_interval_is_shown(cli_here, tmp_path):
    words = ("--dtype", "int8", *CPU, *ONE, "--rigor", "quick", "--processes", "2", "--out", "r.jsonl")
    result = cli_here(*words)
    assert result.returncode == 0, result.stderr
    records = json_lines.read(tmp_path / "r.jsonl")
    assert records.warnings == ()
    for record in records.records:
        taken, process = record.samples["time_host"], record.groups("time_host")
        assert len(taken) == len(process)
        assert set(process) == {0, 1}
        assert all(6 <= process.count(one) <= 12 for one in (0, 1))
        assert len(set(record.blocks["time_host"])) == len(taken)
    (end,) = records.ends
    assert end.blocks == len(records.records[0].samples["time_host"])
    assert len(end.machine["processes"]) == 2
    rows = [line for line in result.stdout.splitlines() if line.startswith(KERNELS) and " ok" in line]
    assert len(rows) == 2
    assert all(re.search(r" ±\d+\.\d\d%", row) for row in rows), "no interval"
    noise = next(line for line in result.stdout.splitlines() if line.startswith("noise floor: "))
    assert re.search(r"x \(-?[\d.]+ to [\d.]+\), ", noise)
    resumed = cli_here(*words, "--resume")
    assert resumed.returncode == 0, resumed.stderr


@pytest.mark.parametrize(
    ("option", "says"),
    [(("--processes", "3"), "processes"), (("--duty", "0.25"), "duty")],
)
def test_resuming_with_another_way_of_timing_is_refused(cli_here, tmp_path, finished, option, says):
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    before = (tmp_path / "r.jsonl").read_bytes()
    result = cli_here(*INT8, *SQUARE, *option, "--resume")
    assert (result.returncode, len(result.stderr.splitlines())) == (2, 1)
    assert says in result.stderr
    assert (tmp_path / "r.jsonl").read_bytes() == before


RECOMMEND = (
    *("recommend", str(ROOT / "results/h200/llama2_7b_28_shapes_run1.jsonl.gz")),
    *("--model", "meta-llama/Llama-2-7b-hf"),
)


@pytest.mark.parametrize(
    "words",
    [("--help",), ("list", "kernels"), ("list", "models"), ("list", "schemes"), RECOMMEND],
    ids=lambda words: " ".join(words[::2]),
)
def test_help_lists_and_recommendations_import_no_library(words):
    # Kernels may be those of an installed package, whose metadata has to be read.
    metadata = "" if "kernels" in words else ", 'importlib.metadata'"
    program = (
        "import sys\n"
        "from w8a8_bench.cli.main import main\n"
        "try:\n"
        f"    main({list(words)!r})\n"
        "except SystemExit:\n"
        "    pass\n"
        f"heavy = {{'torch', 'numpy', 'rich', 'triton'{metadata}}} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], env=environment(), capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stderr


def test_listing_what_is_installed_imports_none_of_it():
    program = (
        "import sys\n"
        "from w8a8_bench.cli.main import main\n"
        "main(['list', 'providers'])\n"
        "heavy = {'torch', 'numpy', 'rich', 'triton', 'vllm', 'deep_gemm', 'sgl_kernel'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], env=environment(), capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stderr


def test_no_worker_outlives_a_killed_parent(tmp_path):
    process = start(tmp_path, *TWENTY)
    wait_for_comparisons(tmp_path / "r.jsonl", 1)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    assert children
    process.kill()
    process.communicate()
    end = time.monotonic() + 60
    while time.monotonic() < end and any(Path(f"/proc/{child}/cmdline").exists() for child in children):
        time.sleep(0.05)
    alive = [child for child in children if Path(f"/proc/{child}/cmdline").exists()]
    assert not [child for child in alive if "w8a8_bench" in Path(f"/proc/{child}/cmdline").read_text()]


def test_a_wrong_kernel_is_left_out_of_the_tables_and_ends_with_exit_code_3(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\n"
        "if any('w8a8_bench.bench.worker' in word for word in sys.orig_argv):\n"
        "    import torch\n"
        "    right = torch._int_mm\n"
        "    def wrong(a, b, *, out):\n"
        "        right(a, b, out=out)\n"
        "        out[-1, -1] += 1000000\n"
        "    torch._int_mm = wrong\n"
    )
    env = environment()
    env["PYTHONPATH"] += f":{tmp_path}"
    result = subprocess.run(
        [sys.executable, "-m", "w8a8_bench", *INT8, *SQUARE],
        cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert result.returncode == 3, result.stderr
    assert [cell[3] for cell in cells(tmp_path / "r.jsonl")] == ["ok", "incorrect"] * 2
    assert "incorrect: pytorch_i8_i8_bf16_scaled_mm at m=16 n=16 k=16" in result.stderr
    assert [one.task_spec.description for one in pickle.loads((tmp_path / "r.pkl").read_bytes())] == [KERNELS[0]] * 2


@pytest.mark.slow
def test_a_file_that_can_grow_no_more_ends_the_sweep_and_resuming_finishes_it(cli, tmp_path):
    words = (*INT8, *SQUARE)
    program = (
        "import resource, sys\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))\n"
        "from w8a8_bench.cli.main import main\n"
        f"sys.exit(main({list(words)!r}))\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 3
    assert "Traceback" not in result.stderr
    assert "--resume" in result.stderr
    assert len(cells(tmp_path / "r.jsonl")) < 4
    assert cli(*words, "--resume").returncode == 0
    assert len(cells(tmp_path / "r.jsonl")) == 4


@pytest.mark.parametrize("delay", [0.0, 0.2, 0.6, 1.0, 2.0])
def test_interrupting_before_the_first_measurement_leaves_no_traceback(tmp_path, delay):
    # What `__main__` does, but saying when: an interrupt before its first line is Python's to answer.
    program = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); print('begun', flush=True)\n"
        "from w8a8_bench.cli.main import main\n"
        f"sys.exit(main({['--dtype', 'int8', *CPU, *TWENTY, '--kernels', *KERNELS, '--out=r.jsonl']!r}))\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout.readline() == "begun\n"
    time.sleep(delay)  # while the package and torch load; where the sweep has begun already, the answer is the same
    process.send_signal(signal.SIGINT)
    stderr = process.communicate(timeout=300)[1]
    assert process.returncode in (130, -signal.SIGINT)  # the latter before a handler stands, which a shell shows as 130
    assert "Traceback" not in stderr


@pytest.mark.parametrize(("code", "ends"), [(130, ""), (0, "torn down\n")], ids=["interrupted", "complete"])
def test_only_an_interrupted_command_ends_without_taking_libraries_down(tmp_path, code, ends):
    program = (
        "import atexit\n"
        "from w8a8_bench.cli import main\n"
        "atexit.register(lambda: print('torn down'))\n"
        f"main.main = lambda *, prog: print('said', end='.') or {code}\n"
        "main.run_and_exit()\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=300
    )
    assert (result.returncode, result.stdout) == (code, f"said.{ends}")


def swap_index(text: str) -> str:
    return text.replace('"comparison": 0', '"comparison": 77').replace('"index": 0', '"index": 77')


def write_twice(text: str) -> str:
    header, *first = text.splitlines(keepends=True)[:4]
    return header + "".join(first) * 2


@pytest.mark.parametrize(
    "edit",
    [swap_index, write_twice, lambda text: text.replace('"m": 16', '"m": 17')],
    ids=["another index", "twice", "another m"],
)
def test_records_that_the_sweep_did_not_write_are_not_gone_on_with(cli_here, tmp_path, finished, edit):
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "r.jsonl"
    path.write_text(edit(path.read_text()))
    before = path.read_bytes()
    result = cli_here(*INT8, *SQUARE, "--resume")
    assert (result.returncode, len(result.stderr.splitlines())) == (2, 1), result.stderr
    assert path.read_bytes() == before


def test_a_pickle_of_somebody_else_is_not_overwritten(cli_here, tmp_path):
    (tmp_path / "r.pkl").write_text("precious")
    result = cli_here("--dtype", "int8", *CPU, *SQUARE, "--kernels", *KERNELS, "--out", "r.jsonl", "--resume")
    assert (result.returncode, len(result.stderr.splitlines())) == (2, 1)
    assert (tmp_path / "r.pkl").read_text() == "precious"


SHELL = f"--dtype int8 {' '.join(FAST)}"


def shell(tmp_path: Path, command: str, *, before: str = "") -> subprocess.CompletedProcess:
    line = f"{before}{sys.executable} -m w8a8_bench {command}"
    return subprocess.run(
        ["bash", "-c", line], cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=300
    )


def test_a_full_standard_output_is_one_line_and_keeps_the_records(tmp_path):
    sweep = f"{SHELL} {' '.join(SQUARE)} --kernels {KERNELS[1]} --out r.jsonl"
    for command, lines_expected in ((f"{sweep} > /dev/full", None), ("list kernels > /dev/full", 1)):
        result = shell(tmp_path, command)
        assert result.returncode == 3, result.stderr
        assert "Traceback" not in result.stderr
        assert "Exception ignored" not in result.stderr
        assert lines_expected in (None, len(result.stderr.splitlines()))
    assert "No space left" in result.stderr
    assert (tmp_path / "r.jsonl").exists()


@pytest.mark.parametrize(
    "closed", [">&- 2>&-", *(pytest.param(one, marks=pytest.mark.slow) for one in ("2>&-", ">&-"))]
)
def test_a_closed_standard_stream_does_not_stop_a_sweep(tmp_path, closed):
    sweep = f"{SHELL} {' '.join(SQUARE)} --kernels {KERNELS[1]} --out r.jsonl {closed}"
    assert shell(tmp_path, sweep).returncode == 0
    assert len(cells(tmp_path / "r.jsonl")) == 2
    assert len(pickle.loads((tmp_path / "r.pkl").read_bytes())) == 2


def test_a_reader_that_leaves_early_is_no_fault(tmp_path):
    result = shell(tmp_path, "list models | head -1")
    assert (result.returncode, result.stderr) == (0, "")


def test_a_sweep_whose_reader_leaves_keeps_its_records_and_is_not_called_complete(tmp_path):
    sweep = f"--dtype int8 --device cpu {' '.join(TWENTY)} --kernels {KERNELS[1]} --out r.jsonl"
    result = shell(tmp_path, f"{sweep} | head -1; exit ${{PIPESTATUS[0]}}")
    assert result.returncode == 3
    assert "nobody reads standard output any more: " in result.stderr and "--resume" in result.stderr
    assert "Traceback" not in result.stderr
    assert 1 <= len(cells(tmp_path / "r.jsonl")) < 20
    assert len(pickle.loads((tmp_path / "r.pkl").read_bytes())) == len(cells(tmp_path / "r.jsonl"))


def test_records_that_are_removed_meanwhile_end_the_sweep(tmp_path):
    process = start(tmp_path, *TWENTY)
    wait_for_comparisons(tmp_path / "r.jsonl", 1)
    (tmp_path / "r.jsonl").unlink()
    stderr = process.communicate(timeout=300)[1]
    assert process.returncode == 3
    assert "r.jsonl was removed while the sweep wrote it" in stderr
    assert "their times are in the pickle alone" in stderr
    assert not (tmp_path / "r.jsonl").exists()
    assert pickle.loads((tmp_path / "r.pkl").read_bytes())


@pytest.mark.parametrize("log", ["2>/dev/full", pytest.param("2> >(true)", marks=pytest.mark.slow)])
def test_a_log_that_can_not_be_written_costs_nothing_else(tmp_path, log):
    sweep = f"{SHELL} {' '.join(SQUARE)} --kernels {KERNELS[1]} --out r.jsonl"
    result = shell(tmp_path, f"{sweep} {log}")
    assert result.returncode == 0
    assert "records: r.jsonl" in result.stdout
    assert (tmp_path / "r.pkl").exists()


def test_a_sweep_is_not_gone_on_with_under_other_kernels_and_says_how_it_was_begun(cli_here, tmp_path, finished):
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    words = ("--dtype", "int8", *FAST, *SQUARE, "--out", "r.jsonl")
    before = (tmp_path / "r.jsonl").read_bytes()
    other = cli_here(*words, "--kernels", KERNELS[0], "--resume")
    assert other.returncode == 2
    assert "begun with other shapes, kernels, schemes or activations, as w8a8-bench --dtype int8" in other.stderr
    again = cli_here(*words, "--kernels", *KERNELS, "--resume")
    assert again.returncode == 0
    assert (tmp_path / "r.jsonl").read_bytes() == before, "nothing was left to do"


def test_what_was_skipped_is_said_with_the_reason_of_its_own_run(cli_here):
    words = (*INT8, *SQUARE)
    assert "budget of 0.001 s" in cli_here(*words, "--budget", "0.001").stderr
    assert "budget of 0.001 s" in cli_here(*words, "--budget", "60", "--resume").stderr


def test_text_that_the_terminal_can_not_show_does_not_stop_a_sweep(tmp_path):
    words = f"{SHELL} {' '.join(SQUARE)} --kernels {KERNELS[1]} --out r.jsonl"
    line = f"PYTHONIOENCODING=ascii {sys.executable} -m w8a8_bench {words}"
    result = subprocess.run(
        ["bash", "-c", line], cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stderr
    assert "?95%" in result.stdout


def test_a_name_that_is_too_long_is_the_names_fault(cli_here):
    result = cli_here("--dtype", "int8", *CPU, *SQUARE, "--kernels", *KERNELS, "--out", "a" * 300 + ".jsonl")
    assert (result.returncode, len(result.stderr.splitlines())) == (2, 1)
    assert result.stderr.endswith("can't be written: File name too long\n")


def test_a_second_interrupt_does_not_disturb_the_first(tmp_path):
    process = start(tmp_path, *TWENTY)
    wait_for_comparisons(tmp_path / "r.jsonl", 1)
    for _ in range(5):
        process.send_signal(signal.SIGINT)
    stderr = process.communicate(timeout=300)[1]
    assert process.returncode == 130
    assert "Traceback" not in stderr
    assert "--resume" in stderr
