"""From a line of a results file to what it holds, and what is wrong with a foreign one in plain words."""

from __future__ import annotations

import functools
import json
import re
from enum import Enum

import msgspec
from msgspec.structs import force_setattr

from w8a8_bench.kernel import Status
from w8a8_bench.problem import Activations, Azp, Problem
from w8a8_bench.problem.formats import Format
from w8a8_bench.results.record import CELL, COMPARISON, RUN, SCHEMA, Item, Json, Record, check_schema
from w8a8_bench.text import shown

TOO_DEEP = "no JSON of this program: nested too deeply"

SHARED = ("kernel", "provider", "labels", "blocks", "processes", "launches_per_sample", "rotation", "device")
"""What a record often has in common with the one before it."""

_DECODER = msgspec.json.Decoder(Item)
_TYPES = {
    "str": "text",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "object": "an object",
    "array": "a list",
}
_CHOICES: dict[str, type[Enum]] = {
    "status": Status,
    "problem.format": Format,
    "problem.out": Format,
    "problem.azp": Azp,
    "problem.activations": Activations,
}


def decode(line: bytes, schema: int = SCHEMA) -> Item:
    """What a line of a file of `schema` holds. Raises ValueError, which names the field, if that is wrong."""
    try:
        try:
            if schema > 1:
                item = _DECODER.decode(line)
            else:
                item = msgspec.convert(_from_schema_1(msgspec.json.decode(line)), Item)
        except msgspec.ValidationError as error:
            raise ValueError(_explained(line, schema, str(error))) from None
    except RecursionError:
        raise ValueError(TOO_DEEP) from None
    except msgspec.DecodeError as error:
        raise ValueError(f"no JSON: {str(error).removeprefix('JSON is malformed: ')}") from None
    item.check()
    return item


def share(record: Record, previous: Record | None) -> None:
    """Have one object for what a record repeats, so that a million of them hold it once."""
    force_setattr(record, "problem", _first_of_equals(record.problem))
    for name in SHARED if previous else ():
        own, held = getattr(record, name), getattr(previous, name)
        if own == held:
            force_setattr(record, name, held)


@functools.lru_cache(maxsize=4096)
def _first_of_equals(problem: Problem) -> Problem:
    return problem


def _from_schema_1(data: Json) -> Json:
    """A cell of schema 1 has one list of blocks, which goes for every measure, and no clock."""
    if isinstance(data, dict) and data.get("kind") == CELL:
        if isinstance(data.get("blocks"), list) and isinstance(data.get("samples"), dict):
            data["blocks"] = dict.fromkeys(data["samples"], data["blocks"])
        data["clock_mhz"] = {}
    return data


def _explained(line: bytes, schema: int, error: str) -> str:
    """msgspec's "Expected `float`, got `str` - at `$.samples[...][1]`" as "samples.time_host[1] '2': expected ..."."""
    try:
        data = json.loads(line)
    except ValueError as no_json:
        return f"no JSON: {no_json}"
    if schema == 1:
        data = _from_schema_1(data)
    if isinstance(data, dict) and data.get("kind") == RUN and isinstance(data.get("schema"), int):
        check_schema(data["schema"])
    what, _, path = error.partition(" - at `$")
    path = path.removesuffix("`")
    where, value = _place(data, path)
    if missing := re.fullmatch(r"Object missing required field `(\w+)`", what):
        return f"{where}.{missing[1]} is missing".lstrip(".")
    if where == "kind":
        what = f"expected {RUN}, {CELL} or {COMPARISON}"
    elif what.startswith("Invalid enum value"):
        what = f"expected one of {', '.join(one.value for one in _CHOICES[where])}"
    elif what.startswith(("Expected", "Number")):
        what = re.sub(
            r"`([\w| ]+)`",
            lambda types: " or ".join(_TYPES.get(one, one) for one in types[1].split(" | ")),
            what[0].lower() + what[1:],
        )
    else:
        value = {}  # a sentence of our own, which shows what is wrong
    wrong = "" if isinstance(value, dict | list) else f" {shown(value)}"
    return f"{where}{wrong}: {what}" if where else what


def _place(data: object, path: str) -> tuple[str, object]:
    """The place at msgspec's `path` by name, and the value there. A path has `[...]` for any key of an object: the one
    that is meant is found by leaving out the others.
    """
    where, inside = "", data
    for name, index in re.findall(r"\.(\w+)|\[(\d+|\.\.\.)\]", path):
        if isinstance(inside, list):
            where, inside = f"{where}[{index}]", inside[int(index)]
        elif isinstance(inside, dict):
            key = name or _wrong_key(data, inside, path)
            if key is None:
                return where, {}
            where, inside = f"{where}.{key}".lstrip("."), inside[key]
    return where, inside


def _wrong_key(data: object, inside: Json, path: str) -> str | None:
    items = dict(inside)
    for key, value in items.items():
        inside.clear()
        inside[key] = value
        try:
            msgspec.convert(data, Item)
        except msgspec.ValidationError as error:
            if str(error).endswith(f"`${path}`"):
                return key
    return None
