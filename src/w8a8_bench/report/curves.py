"""Where a comparison stands in a plot: its layer, and its size along the axis on which the layer's shapes vary."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

from w8a8_bench.problem import GemmShape
from w8a8_bench.results.measured_comparison import labels_key
from w8a8_bench.results.record import ComparisonEnd, Labels

SIZES = ("m", "n", "k")


@dataclass(frozen=True)
class Curve:
    """Shapes that make one curve. `axis` names the sizes that vary along it, all of them equal: `m`, or `m = n = k`.

    `name` is what the labels say beside the model, `title` adds the sizes that don't vary.
    """

    model: str
    name: str
    title: str
    axis: str


@dataclass(frozen=True)
class Place:
    """`layer` is an index, `x` the size on that layer's axis."""

    layer: int
    x: int


def place(ends: Sequence[ComparisonEnd]) -> tuple[tuple[Curve, ...], tuple[Place, ...]]:
    """Layers in the order of their first shape, and the place of every comparison, parallel to `ends`.

    Shapes of the same labels, n and k are a layer, with m its axis. Those without a label `layer` that are alone with
    their n and k, as in a sweep of squares, make one layer of all whose other sizes are equal or constant alike.
    """
    alone = _alone(ends)
    keys: dict[Hashable, int] = {}
    layers: list[Curve] = []
    places: list[Place] = []
    several_tp = len({end.labels["tp"] for end in ends if "tp" in end.labels}) > 1
    for end in ends:
        shape = end.shape
        varying = alone.get((labels_key(end.labels), shape.n, shape.k), ("m",))
        constant = tuple((name, getattr(shape, name)) for name in SIZES if name not in varying)
        key = (labels_key(end.labels), varying, constant)
        if key not in keys:
            keys[key] = len(layers)
            name = _name(end.labels, several_tp)
            sizes = " ".join(f"{size}={number}" for size, number in constant)
            axis = " = ".join(varying)
            layers.append(Curve(str(end.labels.get("model", "")), name, f"{name} {sizes}".strip() or axis, axis))
        places.append(Place(keys[key], getattr(shape, varying[0])))
    return tuple(layers), tuple(places)


def _alone(ends: Sequence[ComparisonEnd]) -> Mapping[Hashable, tuple[str, ...]]:
    """For shapes that are no curve over m by themselves, the sizes that vary together over all of them."""
    tokens: dict[tuple[Hashable, int, int], set[int]] = {}
    shapes: dict[Hashable, list[GemmShape]] = {}
    for end in ends:
        tokens.setdefault((labels_key(end.labels), end.shape.n, end.shape.k), set()).add(end.shape.m)
    for end in ends:
        if "layer" not in end.labels and len(tokens[labels_key(end.labels), end.shape.n, end.shape.k]) == 1:
            shapes.setdefault(labels_key(end.labels), []).append(end.shape)
    alone: dict[Hashable, tuple[str, ...]] = {}
    for labels, members in shapes.items():
        squares = [shape for shape in members if shape.m == shape.n == shape.k]
        others = [shape for shape in members if shape not in squares]
        for group in (squares, others):
            varying = tuple(name for name in SIZES if len({getattr(shape, name) for shape in group}) > 1)
            together = all(len({getattr(shape, name) for name in varying}) == 1 for shape in group)
            for shape in group if varying and together else ():
                alone[labels, shape.n, shape.k] = varying
    return alone


def _name(labels: Labels, several_tp: bool) -> str:
    """The layer, TP if it differs between layers, and labels of other names."""
    words = [str(labels["layer"])] if "layer" in labels else []
    words += [f"TP{labels['tp']}"] if several_tp and "tp" in labels else []
    words += [f"{name}={value}" for name, value in labels.items() if name not in ("model", "layer", "tp")]
    return " ".join(words)
