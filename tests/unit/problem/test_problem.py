"""Shapes and problems: what is legal is what the arithmetic defines, and nothing else."""

from __future__ import annotations

import itertools

import msgspec
import pytest

from w8a8_bench.problem import BLOCKWISE, SCHEMES, Activations, Azp, GemmShape, Problem, Scaling
from w8a8_bench.problem.formats import Format

SHAPE = GemmShape(m=16, n=4096, k=6144)


@pytest.mark.parametrize("name", ["m", "n", "k"])
@pytest.mark.parametrize("size", [0, -1, 1.0, "1", True, None])
def test_a_size_that_is_no_count_is_refused(name: str, size: object) -> None:
    with pytest.raises(ValueError, match=f"^{name}="):
        GemmShape(**{"m": 1, "n": 1, "k": 1, name: size})


@pytest.mark.parametrize(("rows", "columns"), [("m", "k"), ("k", "n"), ("m", "n")])
def test_a_matrix_that_overflows_an_index_is_refused_and_one_below_is_not(rows: str, columns: str) -> None:
    sizes = {"m": 1, "n": 1, "k": 1, rows: 2**16, columns: 2**15}
    GemmShape(**sizes)
    with pytest.raises(ValueError, match=f"{rows} x {columns} .*at most"):
        GemmShape(**{**sizes, columns: 2**15 + 1})


def test_sizes_can_not_be_given_by_position() -> None:
    with pytest.raises(TypeError):
        GemmShape(1, 2, 3)


def test_sub_label_is_the_originals() -> None:
    assert SHAPE.mkn == "MKN=(16x6144x4096)"


def test_schemes_are_found_by_their_names() -> None:
    names = ["tensor-w-tensor-a", "tensor-w-token-a", "channel-w-tensor-a", "channel-w-token-a", "block-w-group-a"]
    assert [scheme.name for scheme in SCHEMES] == names
    assert [Scaling.parse(name) for name in names] == list(SCHEMES)
    with pytest.raises(ValueError, match="tensor-w-tensor-a"):
        Scaling.parse("row-w-row-a")


def legal(fmt: str, scheme: str, azp: str, bias: bool, activations: str) -> bool:
    """The definition in words, written a second time."""
    token = scheme in ("tensor-w-token-a", "channel-w-token-a")
    group = scheme == "block-w-group-a"
    if fmt == "int8" and group:
        return False
    if fmt == "fp8" and azp != "none":
        return False
    if group and bias:
        return False
    if azp == "tensor" and (token or activations == "dynamic"):
        return False
    if activations == "static":
        return not token and not group and azp != "token"
    return not (activations == "dynamic" and azp == "token" and not token)


def test_exactly_the_defined_combinations_are_legal() -> None:
    seen = {True: 0, False: 0}
    for fmt, scheme, azp, bias, activations in itertools.product(
        (Format.INT8, Format.FP8), SCHEMES, Azp, (False, True), Activations
    ):
        problem = Problem.of(
            shape=SHAPE, format=fmt, out=Format.BF16, scaling=scheme, azp=azp, bias=bias, activations=activations
        )
        why = problem.why_illegal()
        expected = legal(fmt.value, scheme.name, azp.value, bias, activations.value)
        assert (why is None) == expected, (problem, why)
        assert why is None or ("\n" not in why and why)
        seen[expected] += 1
    assert min(seen.values()) > 20


def test_products_without_scales_take_nothing_more() -> None:
    plain = {"shape": SHAPE, "format": Format.BF16, "out": Format.BF16, "scaling": None}
    assert Problem.of(**plain).why_illegal() is None
    for extra in ({"azp": Azp.TENSOR}, {"bias": True}, {"activations": Activations.DYNAMIC}):
        assert "without scales" in Problem.of(**plain, **extra).why_illegal()
    assert "take no scales" in Problem.of(**{**plain, "scaling": SCHEMES[0]}).why_illegal()
    assert "output format" in Problem.of(**{**plain, "out": Format.FP8}).why_illegal()


def test_a_problem_survives_json() -> None:
    for scaling in (None, *SCHEMES):
        problem = Problem.of(
            shape=SHAPE, format=Format.FP8, out=Format.FP16, scaling=scaling, bias=True, activations=Activations.DYNAMIC
        )
        assert msgspec.json.decode(msgspec.json.encode(problem), type=Problem) == problem


@pytest.mark.parametrize(
    "change",
    [{"m": "16"}, {"m": True}, {"k": 0}, {"format": "int4"}, {"scheme": "x"}, {"azp": "y"}, {"bias": 1}, {"out": None}],
)
def test_a_problem_of_a_foreign_record_is_refused(change: dict) -> None:
    problem = Problem.of(shape=SHAPE, format=Format.FP8, out=Format.BF16, scaling=BLOCKWISE)
    with pytest.raises(ValueError):
        msgspec.convert({**msgspec.to_builtins(problem), **change}, Problem)


def test_only_outputs_have_a_rounding() -> None:
    assert Format.BF16.unit_roundoff == 2.0**-8
    assert Format.FP16.unit_roundoff == 2.0**-11
    for fmt in (Format.INT8, Format.FP8):
        with pytest.raises(ValueError, match="output format"):
            _ = fmt.unit_roundoff
