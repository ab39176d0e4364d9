"""How much device memory a comparison needs, known before anything is allocated. Plain arithmetic, without torch.

The sizes of the chunks in which quantization, operand factory and oracle work stand here too, so that the estimate
holds for what they do.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from w8a8_bench.problem import BLOCK, Activations, ActScale, Azp, GemmShape, Problem, WeightScale, ceil_div
from w8a8_bench.problem.formats import W8A8_FORMATS, Format
from w8a8_bench.problem.work import bytes_moved

QUANTIZE_CHUNK = 2**24
"""Elements quantized or generated at a time: with fp32 copies, quotients and expanded scales about 256 MiB."""

CPU_CHUNK_BYTES = 2**24
"""Largest temporary on a CPU, unless it is a whole matrix: malloc keeps such memory for the next chunk. Larger pieces
come from the kernel every time, and zeroing their pages takes longer than the arithmetic."""

FINGERPRINT_CHUNK = 2**24
"""64-bit words that a fingerprint is taken of at a time; three temporaries of this size take less than the check."""

PANEL_CHUNK = 2**25
"""Elements of a panel of A or B that the oracle holds in float64 (256 MiB) while it multiplies."""

CHECK_CHUNK = 2**24
"""Elements of D compared at a time, so many that one pass over them (16 bytes each and more) takes a GPU of 4 TB/s over
60 us, ten times a launch. About ten float64 temporaries of this size live at once if the answer is wrong."""

CHECK_BYTES = 4 * 8
"""Bytes an element of a right answer takes while it is compared: value, tolerance, error and one temporary."""

GUARD_ELEMENTS = 4096
"""Least number of poisoned elements on either side of a guarded output."""

CPU_ORACLE_OPERATIONS = 2**34
"""2 m n k up to which a CPU computes the oracle's whole float64 product: 0.2 s on two cores (Intel Sapphire Rapids). A
larger answer is judged on a random sample of whole rows."""

LEAST_JUDGED_ROWS = 32
"""Rows in such a sample at least. One wrong row in ten escapes them with a probability of 3%, one in five with 0.1%."""

SQNR_ROWS, SQNR_COLUMNS = 64, 256
"""Sample of D that the accuracy of a scheme is found on. At m = n = 1024 its float64 products are a 64th of those that
the check multiplies."""

L2_TIMES = 5
"""Size of a rotation of operand sets over that of the L2. The L2 does not strictly replace what was used least
recently: at 3 times about 6% of a rotation still hits."""

MIN_SETS, MAX_SETS = 2, 1024

MOST_QUANTIZATIONS = 64
"""Sets of A in the rotation of quantization alone; if they fit the L2, as those of few tokens do, it is scrubbed."""

MIN_LAUNCHES = 5
"""Launches in a replay: one to warm up, four timed. With a scrub each set is launched once: as many sets."""


def rotation_sets(set_bytes: int, l2_bytes: int, most: int = MAX_SETS) -> tuple[int, bool]:
    """How many operand sets a rotation has, and whether they are too few to fill the L2 often enough."""
    wanted = ceil_div(L2_TIMES * l2_bytes, set_bytes)
    sets = min(max(wanted, MIN_SETS), most)
    return sets, sets < wanted


def rotation_bytes(problems: Iterable[Problem], l2_bytes: int, most: int = MAX_SETS) -> int:
    """Device bytes of the rotations for the cells of one comparison, an upper estimate: most cells share sets.

    If A is quantized inside the timed region, the GEMM alone reads m k bytes less than the whole, which more sets make
    up for; and quantization alone has its own sets of A.
    """
    total = L2_TIMES * l2_bytes
    for p in {(a_variant(p), b_variant(p), p.out, p.activations): p for p in problems}.values():
        size, codes = bytes_moved(p), p.shape.m * p.shape.k
        if p.activations is Activations.PREQUANTIZED:
            total += rotation_sets(size, l2_bytes, most)[0] * size
        else:
            total += rotation_sets(size - codes, l2_bytes, most)[0] * size
            total += rotation_sets(2 * codes, l2_bytes, min(most, MOST_QUANTIZATIONS))[0] * 2 * codes
    return total


def most_sets(problems: Sequence[Problem], l2_bytes: int, room_bytes: int) -> int:
    """How many sets a rotation may have so that all fit `room_bytes`; with fewer than it wants, the L2 is scrubbed.

    At least `MIN_LAUNCHES`, whether they fit or not, since fewer could not be timed.
    """
    most = MAX_SETS
    while most > MIN_LAUNCHES and rotation_bytes(problems, l2_bytes, most) > room_bytes:
        most = max(most // 2, MIN_LAUNCHES)
    return most


def at_once(elements: int, device: str, *, n_bytes: int = 4) -> int:
    """How many of `elements`, each of `n_bytes`, to work on at a time on a device of type `cpu` or `cuda`."""
    return min(elements, CPU_CHUNK_BYTES // n_bytes) if device == "cpu" else elements


def judged_rows(shape: GemmShape, *, cuda: bool) -> int:
    """How many rows of D the oracle judges: all of them on a GPU, on a CPU as many as it has time for."""
    affordable = CPU_ORACLE_OPERATIONS // (2 * shape.n * shape.k)
    return shape.m if cuda else min(shape.m, max(LEAST_JUDGED_ROWS, affordable))


def row_chunks(rows: int, columns: int, elements: int, *, multiple: int = 1) -> Iterator[slice]:
    """Slices over `rows` that hold about `elements` elements each, in steps of a whole `multiple` of rows."""
    step = max(elements // columns // multiple, 1) * multiple
    for start in range(0, rows, step):
        yield slice(start, min(start + step, rows))


def guard_elements(*, n: int) -> tuple[int, int]:
    """Guard elements before and after an output of `n` columns.

    The usual stray write is a tile of rows past the last one, which has up to 255 rows. The guard has room for them (up
    to 32 MiB), so the fault is found here and does not corrupt the next cell's operands.
    """
    return GUARD_ELEMENTS, max(GUARD_ELEMENTS, min(256 * n, 2**24))


def comparison_bytes(problems: Iterable[Problem], *, cuda: bool = True) -> int:
    """Peak device bytes of operands, outputs and oracle for the cells of one comparison; kernels' workspaces excluded.

    An upper estimate: source tensors, each distinct quantized operand once, a guarded output for every problem, one of
    the oracle's products (`product_cache_bytes` is for the others), and the largest set of temporaries. On a CPU
    (`cuda` false) the product is of `judged_rows`, and FP8 needs its weights in fp32, of the check and of the timing.
    Raises ValueError if the problems differ in shape.
    """
    problems = tuple(problems)
    shapes = {problem.shape for problem in problems}
    if not shapes:
        return 0
    if len(shapes) > 1:
        raise ValueError(f"a comparison has one shape, not {len(shapes)}: {', '.join(sorted(map(str, shapes)))}")
    (shape,) = shapes
    total = _operand_bytes(shape, problems) + _scheme_error_bytes(shape, problems)
    total += _oracle_bytes(shape, problems, cuda=cuda)
    return total if cuda else total + _emulation_bytes(shape, problems)


def product_cache_bytes(
    problems: Sequence[Problem], *, cuda: bool, l2_bytes: int, most_sets: int, available_bytes: int
) -> int:
    """Bytes of float64 products that the oracle may keep for the next cells with the same operands.

    Half of what a comparison leaves of the memory that is available, so that products are kept where there is room and
    no comparison is refused for them. The other half is for the kernels' workspaces.
    """
    needed = comparison_bytes(problems, cuda=cuda) + rotation_bytes(problems, l2_bytes, most_sets)
    return max(available_bytes - needed, 0) // 2


AVariant = tuple[Format, ActScale, Azp]
BVariant = tuple[Format, WeightScale]


def a_variant(problem: Problem) -> AVariant:
    """What A is quantized to. 8-bit operands without scales are those quantized per tensor."""
    activation = ActScale.TENSOR if problem.scaling is None else problem.scaling.activation
    return problem.format, activation, problem.azp


def b_variant(problem: Problem) -> BVariant:
    """What B is quantized to. 8-bit operands without scales are those quantized per tensor."""
    return problem.format, WeightScale.TENSOR if problem.scaling is None else problem.scaling.weight


def _operand_bytes(shape: GemmShape, problems: tuple[Problem, ...]) -> int:
    m, n, k = shape.m, shape.n, shape.k
    total = 2 * (m * k + n * k)  # the bf16 sources, which are also the bf16 baseline's operands
    if any(problem.azp is not Azp.NONE for problem in problems):
        total += 2 * m * k  # the shifted activations
    for fmt, activation, azp in {a_variant(problem) for problem in problems}:
        if fmt in W8A8_FORMATS:
            scales = m * ceil_div(k, BLOCK) if activation is ActScale.GROUP else m
            total += m * k + 4 * scales + (0 if azp is Azp.NONE else 4 * m)
        elif fmt is Format.FP16:
            total += 2 * m * k
    for fmt, _ in {b_variant(problem) for problem in problems}:
        if fmt in W8A8_FORMATS:
            total += n * k + 4 * n + 4 * ceil_div(n, BLOCK) * ceil_div(k, BLOCK)
        elif fmt is Format.FP16:
            total += 2 * n * k
    per_output = 2 * (m * n + sum(guard_elements(n=n)) + 512) + 8 * n  # and azp_adj, bias
    return total + len(problems) * per_output


def _emulation_bytes(shape: GemmShape, problems: tuple[Problem, ...]) -> int:
    """FP8 weights upcast to fp32, but for blockwise ones, which no CPU runs.

    Those of the check, and the codes that they were made of, may still be held while those of the timing are made.
    """
    variants = {b_variant(p) for p in problems if p.format is Format.FP8 and p.scaling and not p.scaling.is_blockwise}
    return len(variants) * (4 + 1 + 4) * shape.n * shape.k


def _oracle_bytes(shape: GemmShape, problems: tuple[Problem, ...], *, cuda: bool) -> int:
    m, n, k = shape.m, shape.n, shape.k
    rows = judged_rows(shape, cuda=cuda)
    requantized = {a_variant(p) for p in problems if p.activations is not Activations.PREQUANTIZED}
    exact = all(problem.format is Format.INT8 for problem in problems)
    product = rows * n * (8 if exact else 12)  # with fp32 magnitudes if not exact
    panels = 12 * (_chunk(m, k, PANEL_CHUNK) + _chunk(n, k, PANEL_CHUNK))
    quantizing = 16 * max(_chunk(m, k, QUANTIZE_CHUNK), _chunk(n, k, QUANTIZE_CHUNK))
    comparing = 10 * 8 * _chunk(rows, n, at_once(CHECK_CHUNK, "cuda" if cuda else "cpu", n_bytes=CHECK_BYTES))
    same_operand = max(m * k, n * k)  # one byte an element: is this operand one already multiplied?
    return product + len(requantized) * m * k + max(panels, quantizing, comparing, same_operand)


def _scheme_error_bytes(shape: GemmShape, problems: tuple[Problem, ...]) -> int:
    """Beside the operands and what the oracle keeps: activations with outliers, and the sample in float64, twice."""
    if all(problem.scaling is None for problem in problems):
        return 0
    m, n, k = shape.m, shape.n, shape.k
    return 2 * m * k + 2 * 8 * k * (min(m, SQNR_ROWS) + min(n, SQNR_COLUMNS))


def _chunk(rows: int, columns: int, elements: int) -> int:
    """Elements of the largest slice that `row_chunks` gives."""
    return min(rows * columns, max(elements, columns))
