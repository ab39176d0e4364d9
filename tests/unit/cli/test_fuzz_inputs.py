"""Whatever stands on the command line or in a CSV file: an answer or one line that says what is wrong."""

from __future__ import annotations

import contextlib
import functools
import io
import random
from pathlib import Path

import pytest
from hypothesis import event, given
from hypothesis import strategies as st

from w8a8_bench.cli import doctor, main, sweep
from w8a8_bench.cli.sweep_request import make_request
from w8a8_bench.providers import registry
from w8a8_bench.shapes import csv_file, models

HEADERS = ["m,n,k", "M, N ,K", "layer,k,m,n", "\ufeffm,n,k", "m,n", "m,n,k,m", "m;n;k", '"m","n","k"', "", "m,n,k,"]
GOOD_ROWS = ["16,64,64", " 1 ,2, 3", '"16","4096","128"', "", ",,", "qkv,16,64,32"]
BAD_ROWS = [
    *("0,1,1", "-1,1,1", "1e3,1,1", "1_0,1,1", "١,1,1", "1,2", "1,2,3,4,5", f"{'9' * 30},1,1", '"1,1,1', "nan,1,1"),
    *("1,,1", "0x10,1,1", "a\0,1,1", "1.5,1,1", '1,"2"3,4', "\x1b[31m,1,1"),
]


SEEDS = st.integers(0, 2**64)
"""Of what is made: hypothesis drawing each word itself would take five times as long."""


def any_text(rng: random.Random, most: int) -> str:
    return "".join(chr(rng.randrange(rng.choice((0x80, 0x300, 0x110000)))) for _ in range(rng.randrange(most + 1)))


def table(rng: random.Random) -> bytes:
    """Mostly a right header and right rows, so that each rule is reached; and bytes of any kind."""
    if rng.random() < 0.1:
        return rng.randbytes(rng.randrange(61))
    rows = rng.choices([*GOOD_ROWS * 3, *BAD_ROWS], k=rng.randrange(4))
    if rng.random() < 0.25:
        rows.append(any_text(rng, 10))
    header = rng.choice([*HEADERS[:4] * 4, *HEADERS])
    return rng.choice(["\n", "\r\n", "\r"]).join([header, *rows]).encode("utf-8", "surrogatepass")


@given(seed=SEEDS)
def test_a_csv_file_is_shapes_or_one_line(tmp_path_factory, seed):
    data = table(random.Random(seed))
    path = tmp_path_factory.getbasetemp() / "fuzzed.csv"
    path.write_bytes(data)
    shapes, says = (), None
    try:
        shapes = csv_file.read(path)
    except ValueError as error:
        says = str(error)
    event("refused" if says else "read")
    assert bool(shapes) is (says is None)
    assert all(min(where.shape.m, where.shape.n, where.shape.k) >= 1 for where in shapes)
    assert says is None or (says.startswith(str(path)) and len(says.splitlines()) == 1), says


COMMANDS = [
    "square_bench",
    "range_bench",
    "model_bench",
    "csv_bench",
    "quick_bench",
    "list",
    "doctor",
    "compare",
    "squarebench",
]
OPTIONS = [
    *("--dtype", "--kernels", "--schemes", "--activations", "--device", "--devices", "--out", "--resume", "--data"),
    *("--seed", "--timer", "--measure", "--rigor", "--processes", "--duty", "--budget", "--step-limit", "--dim-start"),
    *("--dim_end", "--dim-increment", "--m-constant", "--n_constant", "--models", "--tp-sizes", "--batch_sizes"),
    *("--csv", "--timing", "--help", "-h", "--version", "--", "-", "--dim", "--k", "--rigour", "--out=", "--seed=7"),
    *("--threshold", "--force", "--format", "--all"),
]
VALUES = [
    *("int8", "fp8", "bf16", "all", "cpu", "cuda", "cuda:0", "cuda:x", "auto", "r.jsonl", "r.txt", "/dev/null"),
    *("tensor-w-token-a", "channel", "dynamic", "normal", "graph", "host", "cold", "quick", "publish", "kernels"),
    *("1", "16", "512", "0", "-1", "1.5", "nan", "inf", "-inf", "1e308", "9" * 40, "", " ", "\n", "\x1b[31m", "é"),
    *("int8,fp8", "1,16,", ",", "a,,b", "cold,hot", "cuda:0,cuda:1"),
    *(registry.PROVIDERS[0].kernels[:3]),
    *(list(models.MODELS)[:2]),
]
STARTS = [
    [],
    ["--dtype", "int8", "square_bench", "--dim-start", "16", "--dim-end", "64", "--dim-increment", "16"],
    ["--dtype", "fp8", "range_bench", "--dim-start", "16", "--dim-end", "64", "--dim-increment", "16"],
    ["--dtype", "int8", "fp8", "model_bench"],
]


def command_line(rng: random.Random) -> list[str]:
    words = [rng.choice(rng.choice((COMMANDS, OPTIONS, VALUES))) for _ in range(rng.randint(1, 12))]
    return [*rng.choice(STARTS), *(any_text(rng, 6) if rng.random() < 0.2 else word for word in words)]


@pytest.fixture
def only_planned(monkeypatch):
    """Sweeps are planned and not run."""

    def plan(args) -> int:
        try:
            assert make_request(args).plan.comparisons
        except ValueError as error:
            raise main.UsageError(str(error)) from None
        return 0

    monkeypatch.setattr(sweep, "run", plan)
    monkeypatch.setattr(doctor, "run", lambda args: 0)
    monkeypatch.setattr(main.interrupt, "install", lambda: None)
    monkeypatch.setattr(main, "_parser", functools.cache(main._parser))  # making it is most of the time


@given(seed=SEEDS)
def test_a_command_line_is_obeyed_or_refused_in_one_line(only_planned, seed):
    words = command_line(random.Random(seed))
    said, told = io.StringIO(), io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(told):
        try:
            code = main.main(words)
        except SystemExit as ended:  # --help and --version
            code = ended.code
            assert told.getvalue()
    event(f"exit code {code}")
    assert code in (0, 2)
    assert (len(said.getvalue().splitlines()), code) in ((0, 0), (1, 2)), said.getvalue()
    assert not Path("r.jsonl").exists()
