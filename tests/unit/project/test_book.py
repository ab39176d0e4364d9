"""The records that come with the package: how pieces become a file, who reads it, and that its sums are right."""

from __future__ import annotations

import gzip
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from copies import replace
from made_model import FP8, ROW_WISE, cell
from made_results import HEADER, end

from w8a8_bench.cli.main import main
from w8a8_bench.problem.kernel_name import BASELINE
from w8a8_bench.report.recommend.choices import ModelLayer
from w8a8_bench.results import book, json_lines
from w8a8_bench.results.record import Record
from w8a8_bench.shapes import models

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "scripts"))

import check_recommend_sums  # noqa: E402
import measure_book  # noqa: E402

MODEL = "Qwen/Qwen3-8B"
GPU = {"kind": "cuda", "name": "NVIDIA H200", "uuid": "GPU-1"}
ENVIRONMENT = {"w8a8_bench": "0.3.0", "torch": "2.11.0+cu130", "providers": {"vllm": "0.33.0", "sglang": "0.4.4"}}
VLLM = "vllm_fp8_fp8_bf16_scaled_mm"


def records(tp: int) -> Iterator[list[Record]]:
    """Every layer at two m: bf16 takes 10 us and more for each, FP8 5, vLLM's FP8 4."""
    for index, where in enumerate(models.model_shapes([MODEL], [tp], [16, 64])):
        layer = ModelLayer(str(where.labels["layer"]), where.shape.k, where.shape.n, None)
        more = index / 10
        cells = [
            cell(layer, where.shape.m, BASELINE, 10 + more),
            cell(layer, where.shape.m, FP8, 5 + more, ROW_WISE, scheme_sqnr_db={"outliers": 28.0}),
            cell(layer, where.shape.m, VLLM, 4 + more, ROW_WISE, scheme_sqnr_db={"outliers": 28.0}),
        ]
        yield [replace(one, comparison=index, labels=where.labels) for one in cells]


def write_piece(path: Path, tp: int, *, day: str = "2026-12-01", leave_out: int = 0) -> None:
    made = list(records(tp))
    header = replace(
        HEADER,
        time=f"{day}T08:00:00+00:00",
        environment=ENVIRONMENT,
        device=GPU,
        devices=(GPU,),
        settings={"data": "normal", "duty": 0.5},
        plan={"comparisons": len(made)},
    )
    with json_lines.Writer(path, resume=False) as writer:
        writer.write_header(header)
        for cells in made[: len(made) - leave_out]:
            writer.append(cells, end(cells))


@pytest.fixture
def shelf(tmp_path, monkeypatch) -> Path:
    """A book of one model at TP 1 and 4, made of two pieces as the script makes it."""
    monkeypatch.setattr(book, "DIRECTORY", tmp_path)
    pieces = [measure_book.Piece(MODEL, tp, tmp_path) for tp in (1, 4)]
    write_piece(pieces[0].file, 1)
    write_piece(pieces[1].file, 4, day="2026-12-03")
    assert measure_book.join(MODEL, pieces, tmp_path).name == "Qwen--Qwen3-8B.jsonl.gz"
    return tmp_path


def test_without_results_the_book_answers_and_says_what_it_is(shelf, capsys) -> None:
    assert book.models() == (MODEL,)
    assert main(["recommend", "--model", MODEL, "--tp", "4", "--format", "text"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "fp8 channel-w-token-a from vllm" in said
    assert (
        "No results were named, so these are the records that come with w8a8-bench: measured on NVIDIA H200 from "
        "2026-12-01 to 2026-12-03, with w8a8_bench 0.3.0, torch 2.11.0+cu130, vllm 0.33.0, sglang 0.4.4."
    ) in said
    assert str(shelf) not in said
    assert main(["recommend", "--model", MODEL, "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["book"] == {
        "device": "NVIDIA H200",
        "days": ["2026-12-01", "2026-12-03"],
        "versions": {"w8a8_bench": "0.3.0", "torch": "2.11.0+cu130", "vllm": "0.33.0", "sglang": "0.4.4"},
    }


def test_a_model_in_the_cache_of_the_hub_has_its_book(shelf, tmp_path, monkeypatch, capsys) -> None:
    from published_configs import BUILT_IN

    cached = tmp_path / "models--Qwen--Qwen3-8B/snapshots/abc"
    cached.mkdir(parents=True)
    (cached / "config.json").write_text(json.dumps(BUILT_IN[MODEL]))
    assert main(["recommend", "--model", str(cached)]) == 0
    assert "records that come with w8a8-bench" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ("meta-llama/Llama-2-7b-hf", "1"),
            "no RESULTS were named, and there are no records of meta-llama/Llama-2-7b-hf: those that come with "
            "w8a8-bench are of Qwen/Qwen3-8B; measure it with `w8a8-bench --dtype fp8 int8 model_bench --models "
            "meta-llama/Llama-2-7b-hf --tp-sizes 1 --out FILE.jsonl`, then name FILE.jsonl here",
        ),
        (
            (MODEL, "2"),
            "no RESULTS were named, and the records of Qwen/Qwen3-8B that come with w8a8-bench are of TP 1, 4, not 2; "
            "measure it with `w8a8-bench --dtype fp8 int8 model_bench --models Qwen/Qwen3-8B --tp-sizes 2 --out "
            "FILE.jsonl`, then name FILE.jsonl here",
        ),
    ],
)
def test_what_the_book_lacks_is_one_line_with_the_way_out(shelf, capsys, words, said) -> None:
    model, tp = words
    assert main(["recommend", "--model", model, "--tp", tp]) == 2
    assert capsys.readouterr().err == f"w8a8-bench: error: {said}\n"


def test_without_a_book_there_is_one_line_and_with_a_damaged_one_too(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(book, "DIRECTORY", tmp_path)
    assert main(["recommend", "--model", MODEL]) == 2
    assert "no records of Qwen/Qwen3-8B: w8a8-bench comes without any; measure it" in capsys.readouterr().err
    (tmp_path / book.file_name(MODEL)).write_bytes(b"\x1f\x8bno gzip")
    assert main(["recommend", "--model", MODEL]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "Qwen--Qwen3-8B.jsonl.gz" in line


def test_pieces_are_whole_or_measured_on_and_the_file_of_the_same_pieces_is_the_same(shelf) -> None:
    first, second = (measure_book.Piece(MODEL, tp, shelf) for tp in (1, 4))
    assert first.is_whole() and second.is_whole()
    before = (shelf / book.file_name(MODEL)).read_bytes()
    assert measure_book.join(MODEL, [first, second], shelf).read_bytes() == before
    third = measure_book.Piece(MODEL, 8, shelf)
    assert not third.is_whole()
    write_piece(third.file, 8, leave_out=1)
    assert not third.is_whole()
    assert {"--resume", "--out", str(third.file)} < set(third.words)


def test_what_a_killed_sweep_left_behind_does_not_get_into_the_book(shelf) -> None:
    piece = measure_book.Piece(MODEL, 1, shelf)
    data = piece.file.read_bytes()
    piece.file.write_bytes(data[: data.rindex(b'{"kind": "comparison"')])
    with pytest.raises(json_lines.StoreError, match="not finished left out; measure that piece anew"):
        measure_book.join(MODEL, [piece], shelf)
    assert len(json_lines.read(shelf / book.file_name(MODEL)).headers) == 2, "the older file is still there"


def test_the_script_goes_on_where_it_was_stopped_and_measures_nothing_twice(tmp_path, monkeypatch) -> None:
    shelf, pieces, measured = tmp_path / "shelf", tmp_path / "pieces", []
    shelf.mkdir()
    monkeypatch.setattr(book, "DIRECTORY", shelf)
    codes = iter([0, 3, measure_book.INTERRUPTED, 0, 0])

    def measure(piece: measure_book.Piece, until: float | None) -> int:
        measured.append(piece.tp)
        if (code := next(codes)) != measure_book.INTERRUPTED:
            write_piece(piece.file, piece.tp)
        return code

    monkeypatch.setattr(measure_book, "measure", measure)
    words = ["--pieces", str(pieces), "--models", MODEL]
    assert measure_book.main(words) == measure_book.INTERRUPTED
    assert (measured, book.models()) == ([1, 2, 4], ())
    assert measure_book.main(words) == 0
    assert (measured, book.models()) == ([1, 2, 4, 4, 8], (MODEL,))
    assert measure_book.main(words) == 0
    assert len(measured) == 5


def test_the_script_measures_the_sizes_that_the_book_promises() -> None:
    assert {tp: len(sizes) for tp, sizes in measure_book.BATCH_SIZES.items()} == {1: 12, 2: 6, 4: 6, 8: 6}
    for model in measure_book.MODELS:
        for tp, sizes in measure_book.BATCH_SIZES.items():
            assert models.model_shapes([model], [tp], sizes)


def test_an_installed_package_has_every_file_that_is_no_module() -> None:
    tomllib = pytest.importorskip("tomllib", reason="Python 3.11 or newer")
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["w8a8_bench"]
    package = ROOT / "src/w8a8_bench"
    packed = {path for pattern in patterns for path in package.glob(pattern)}
    files = {p for p in package.rglob("*") if p.is_file() and "__pycache__" not in p.parts and p.suffix != ".py"}
    assert files <= packed
    assert book.DIRECTORY.is_dir() and book.DIRECTORY.is_relative_to(package)


def answer_of(shelf: Path, *words: str) -> Path:
    path = shelf / "answer.json"
    assert main(["recommend", "--model", MODEL, "-o", str(path), *words]) == 0
    return path


@pytest.mark.parametrize("words", [("--tp", "4"), ("--m", "16:0.7", "64:0.3"), ("--providers", "pytorch")])
def test_the_sums_of_the_book_are_those_of_its_records(shelf, capsys, words) -> None:
    assert check_recommend_sums.main([str(answer_of(shelf, *words))]) == 0
    agree, _, rest = capsys.readouterr().out.splitlines()[-1].partition(" ")
    assert int(agree) > 30 and rest == "numbers agree, 0 do not"


def test_a_wrong_sum_is_found_and_so_are_other_records(shelf, capsys) -> None:
    path = answer_of(shelf)
    answer = json.loads(path.read_text())
    answer["whole_model"][1]["one_scheme"]["time_s"] *= 1.0001
    path.write_text(json.dumps(answer))
    assert check_recommend_sums.main([str(path)]) == 1
    line, last = capsys.readouterr().out.splitlines()[-2:]
    assert line.startswith("whole model at m=64, one_scheme: the answer says ")
    assert last.endswith(" numbers agree, 1 do not")

    path = answer_of(shelf)
    lines = [json.loads(line) for line in gzip.decompress((shelf / book.file_name(MODEL)).read_bytes()).splitlines()]
    for line in lines:
        if line.get("kernel") == VLLM:
            line["samples"] = {measure: [1.01 * one for one in taken] for measure, taken in line["samples"].items()}
    other = shelf / "other.jsonl"
    other.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    assert check_recommend_sums.main([str(path), str(other)]) == 1
    assert check_recommend_sums.main([str(shelf / "gone.json")]) == 2
