"""The accuracy of schemes: by hand, against the oracle, against theory, and in the order that theory gives them."""

from __future__ import annotations

import math

import pytest
import torch
from fetches import fetches_of

from w8a8_bench.correctness import sqnr
from w8a8_bench.correctness.operand_factory import OperandFactory
from w8a8_bench.correctness.oracle import Oracle
from w8a8_bench.correctness.sqnr import scheme_of, scheme_sqnr_db
from w8a8_bench.problem import BLOCKWISE, PER_TENSOR, SCHEMES, Activations, Azp, GemmShape, Problem, Scaling
from w8a8_bench.problem.formats import W8A8_FORMATS, Format

PER_TOKEN = Scaling.parse("tensor-w-token-a")
PER_CHANNEL = Scaling.parse("channel-w-tensor-a")
FINEST = Scaling.parse("channel-w-token-a")


def problem(
    shape: GemmShape,
    fmt: Format = Format.INT8,
    scaling: Scaling | None = PER_TENSOR,
    azp: Azp = Azp.NONE,
    activations: Activations = Activations.PREQUANTIZED,
) -> Problem:
    return Problem.of(shape=shape, format=fmt, out=Format.BF16, scaling=scaling, azp=azp, activations=activations)


def sqnr_db(x: torch.Tensor, w: torch.Tensor, fmt: Format, scaling: Scaling = PER_TENSOR, azp: Azp = Azp.NONE) -> float:
    """Of x [m,k] and w [n,k] under one scheme."""
    scheme = scheme_of(problem(GemmShape(m=len(x), n=len(w), k=x.shape[1]), fmt, scaling, azp))
    assert scheme is not None
    return scheme_sqnr_db([scheme], {"it": x.bfloat16()}, w.bfloat16(), seed=0)[scheme]["it"]


def everything(shape: GemmShape) -> list[Problem]:
    combined = [problem(shape, f, s, z) for f in W8A8_FORMATS for s in SCHEMES for z in Azp]
    return [p for p in combined if p.why_illegal() is None]


def test_int8_by_hand() -> None:
    # s = 2/127: the code of 1 is 63.5, which rounds to 64 and stands for 128/127. The weights are exact.
    x, w = torch.tensor([[2.0, 1.0]]), torch.ones(1, 2)
    assert sqnr_db(x, w, Format.INT8) == pytest.approx(20 * math.log10(3 / (1 / 127)), abs=1e-3)


def test_a_zero_point_by_hand() -> None:
    # s = 4/255, azp = rne(-64.25) = -64: 3 becomes 127, which stands for 191 s, and -1 becomes -128, which is -64 s.
    x, w = torch.tensor([[3.0, -1.0]]), torch.ones(1, 2)
    error = 2 - (191 - 64) * 4 / 255
    for azp in (Azp.TENSOR, Azp.TOKEN):
        assert sqnr_db(x, w, Format.INT8, azp=azp) == pytest.approx(20 * math.log10(2 / abs(error)), abs=1e-3)


def test_blockwise_by_hand() -> None:
    # Scales 1 and 2: 17 lies between 16 and 18 and becomes 16; 34 is 17 under its scale, and becomes 32.
    x = torch.tensor([[448.0] * 127 + [17.0] + [896.0, 34.0]])
    w = torch.ones(1, 130)
    whole = 127 * 448 + 17 + 896 + 34
    assert sqnr_db(x, w, Format.FP8, BLOCKWISE) == pytest.approx(20 * math.log10(whole / 3), abs=1e-2)


@pytest.mark.parametrize("shape", [GemmShape(m=1, n=3, k=5), GemmShape(m=17, n=130, k=257)], ids=str)
def test_every_scheme_agrees_with_the_oracle_on_the_whole_answer(shape: GemmShape) -> None:
    factory, oracle = OperandFactory(shape, "cpu", data="outliers", seed=3), Oracle()
    for each in everything(shape):
        x = factory.activations(shifted=each.azp is not Azp.NONE)
        reference = x.double() @ factory.weights().double().t()
        noise = oracle.expected(factory.make(each)).value - reference
        expected = 10 * math.log10(float(reference.square().sum()) / float(noise.square().sum()))
        scheme = scheme_of(each)
        assert scheme is not None
        assert scheme_sqnr_db([scheme], {"it": x}, factory.weights(), seed=3) == {
            scheme: {"it": pytest.approx(expected, abs=1e-6)}
        }


def normal(rows: int, columns: int, seed: int) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def test_normal_activations_are_as_exact_as_theory_says() -> None:
    x, exact = normal(256, 1024, 1), normal(64, 1024, 2).sign()
    # Uniform noise in steps of absmax/127.
    steps = x.bfloat16().float().abs().amax(1) / 127
    uniform = -10 * math.log10(float((steps.square() / 12).mean()))
    assert 40 < uniform < 43
    assert sqnr_db(x, exact, Format.INT8, PER_TOKEN) == pytest.approx(uniform, abs=0.5)
    # E4M3 has 3 bits of fraction: steps of 1/16 to 1/8 of the value, noise of -31.5 dB.
    assert sqnr_db(x, exact, Format.FP8) == pytest.approx(31.5, abs=0.5)
    # Both operands at once: twice the noise.
    assert sqnr_db(x, normal(256, 1024, 2), Format.FP8) == pytest.approx(28.5, abs=0.4)


def test_outliers_spoil_int8_by_tensor_and_finer_scales_bring_it_back() -> None:
    shape = GemmShape(m=256, n=256, k=2048)
    sources = {data: OperandFactory(shape, "cpu", data=data, seed=0).activations() for data in ("normal", "outliers")}
    weights = OperandFactory(shape, "cpu", data="normal", seed=0).weights()
    schemes = {p: scheme_of(p) for p in everything(shape)}
    found = scheme_sqnr_db(filter(None, schemes.values()), sources, weights, seed=0)
    of = {(p.format, p.scaling, p.azp): found[scheme] for p, scheme in schemes.items() if scheme}
    tensor, token = of[Format.INT8, PER_TENSOR, Azp.NONE], of[Format.INT8, PER_TOKEN, Azp.NONE]
    assert tensor["normal"] > 34
    assert tensor["outliers"] < tensor["normal"] - 12
    assert token["outliers"] > tensor["outliers"] + 3
    assert of[Format.INT8, FINEST, Azp.NONE]["normal"] > token["normal"] > tensor["normal"]
    assert of[Format.INT8, PER_CHANNEL, Azp.NONE]["normal"] > tensor["normal"]
    assert of[Format.INT8, PER_TOKEN, Azp.TOKEN]["outliers"] > token["outliers"]
    # A float's error is relative: outliers hardly reach it, and its range is finer where int8's is spoilt.
    fp8 = {scaling: of[Format.FP8, scaling, Azp.NONE] for scaling in SCHEMES}
    assert all(27 < ratio < 31 for ratios in fp8.values() for ratio in ratios.values())
    assert fp8[PER_TENSOR]["outliers"] > tensor["outliers"] + 5
    assert fp8[BLOCKWISE]["outliers"] > fp8[PER_TENSOR]["outliers"]
    assert fp8[PER_TENSOR]["normal"] < tensor["normal"] - 5


@pytest.mark.parametrize("side", ["activations", "weights"])
def test_scales_are_of_the_whole_operand_though_few_rows_are_looked_at(side: str) -> None:
    x, w = normal(1000, 64, 1), normal(1500, 64, 2)
    spoilt = {"activations": x, "weights": w}[side]
    by_tensor, fine = sqnr_db(x, w, Format.INT8), sqnr_db(x, w, Format.INT8, FINEST)
    spoilt[501, 7] = 1e8
    assert sqnr_db(x, w, Format.INT8) < by_tensor - 25
    assert sqnr_db(x, w, Format.INT8, FINEST) == pytest.approx(fine, abs=0.1)
    if side == "weights":  # one of 12 blocks is lost to the scale of its largest
        assert sqnr_db(x, w, Format.FP8, BLOCKWISE) == pytest.approx(10 * math.log10(12), abs=1)


def test_a_sampled_row_has_its_own_zero_point() -> None:
    x, w = normal(300, 256, 1) + 4, normal(64, 256, 2)
    x[64:] -= 8  # under the zero point of a row above zero, all of these would saturate
    assert sqnr_db(x, w, Format.INT8, azp=Azp.TOKEN) > 30


def test_a_sampled_column_has_the_scale_of_its_own_block() -> None:
    x, w = normal(8, 128, 1), normal(1024, 128, 2)
    for block in range(8):
        w[128 * block : 128 * block + 128] *= 4.0**block
    assert sqnr_db(x, w, Format.FP8, BLOCKWISE) == pytest.approx(28.5, abs=0.7)


def test_the_sample_is_seeded_and_near_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    x, w = normal(300, 512, 1).bfloat16(), normal(700, 512, 2).bfloat16()
    scheme = scheme_of(problem(GemmShape(m=300, n=700, k=512)))
    assert scheme is not None
    ratios = [scheme_sqnr_db([scheme], {"it": x}, w, seed=seed)[scheme]["it"] for seed in (0, 0, 1)]
    assert ratios[0] == ratios[1] != ratios[2]
    monkeypatch.setattr(sqnr, "SQNR_ROWS", 300)
    monkeypatch.setattr(sqnr, "SQNR_COLUMNS", 700)
    whole = scheme_sqnr_db([scheme], {"it": x}, w, seed=0)[scheme]["it"]
    assert ratios == pytest.approx([whole] * 3, abs=0.3)
    assert whole not in ratios


def test_what_has_no_ratio_is_left_out() -> None:
    scheme = scheme_of(problem(GemmShape(m=2, n=2, k=2)))
    assert scheme is not None
    zeros = torch.zeros(2, 2, dtype=torch.bfloat16)
    assert scheme_sqnr_db([scheme], {"zeros": zeros}, zeros, seed=0) == {scheme: {}}


def test_only_format_scales_and_zero_point_make_a_scheme() -> None:
    shape = GemmShape(m=2, n=2, k=2)
    same = {scheme_of(problem(shape, activations=activations)) for activations in Activations}
    assert len(same) == 1
    assert scheme_of(problem(shape, scaling=PER_TOKEN)) not in same
    assert scheme_of(problem(shape, Format.BF16, None)) is None
    assert scheme_of(problem(shape, Format.INT8, BLOCKWISE)) is None, "a combination without meaning"
    assert len({scheme_of(p) for p in everything(shape)}) == len(everything(shape)) == 15


def test_all_schemes_on_all_data_wait_for_the_device_once_and_none_is_no_error() -> None:
    shape = GemmShape(m=17, n=130, k=257)
    factory = OperandFactory(shape, "cpu", data="normal", seed=3)
    sources = {"normal": factory.activations(), "shifted": factory.activations(shifted=True)}
    schemes = [scheme for scheme in map(scheme_of, everything(shape)) if scheme]
    assert fetches_of(lambda: scheme_sqnr_db(schemes, sources, factory.weights(), seed=0)) == ["tolist"]
    assert scheme_sqnr_db([], sources, factory.weights(), seed=0) == {}
