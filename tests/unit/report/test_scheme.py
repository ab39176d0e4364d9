"""Schemes: each that is legal has a name of the field's own."""

from __future__ import annotations

from pathlib import Path

from copies import replace

from w8a8_bench.problem import SCHEMES, Azp, GemmShape, Problem
from w8a8_bench.problem.formats import W8A8_FORMATS, Format
from w8a8_bench.report.scheme import ALSO_CALLED, Scheme

ROOT = Path(__file__).resolve().parents[3]


def test_every_legal_scheme_has_a_name_and_no_other() -> None:
    shape = GemmShape(m=16, n=128, k=128)
    legal = {
        (fmt, scaling.name)
        for fmt in W8A8_FORMATS
        for scaling in SCHEMES
        if Problem.of(shape=shape, format=fmt, out=Format.BF16, scaling=scaling).why_illegal() is None
    }
    assert set(ALSO_CALLED) == legal
    assert len(set(ALSO_CALLED.values())) == len(legal)


def test_sixteen_bits_have_no_other_name_and_zero_points_are_said() -> None:
    assert Scheme(Format.BF16, None, Azp.NONE).also_called == ""
    per_token = Scheme(Format.INT8, SCHEMES[3], Azp.NONE)
    assert per_token.also_called == "INT8 per channel and token; compressed-tensors W8A8"
    assert replace(per_token, azp=Azp.TOKEN).also_called == f"{per_token.also_called}, zero point per token"


def test_the_presets_are_those_that_the_page_of_schemes_names() -> None:
    page = (ROOT / "docs/schemes.md").read_text()
    for preset in ("FP8_DYNAMIC", "FP8_BLOCK", "W8A8", "fp8_per_tensor"):
        assert f"`{preset}`" in page
        assert any(preset in name for name in ALSO_CALLED.values())
