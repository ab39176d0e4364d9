"""Batch sizes m as `--batch-sizes` takes them: numbers, and a word for the sizes at which times tend to jump."""

from __future__ import annotations

from collections.abc import Sequence

CLIFFS = "cliffs"

_EDGES = (32, 64, 128, 192, 256, 384, 512, 768, 1024, 2048, 4096, 8192)

CLIFF_SIZES = (*range(1, 18), *(edge + side for edge in _EDGES for side in (-1, 0, 1)))
"""Both sides of every edge at which kernels change, 53 sizes.

Up to 17 every m, since the tiles of decoding are 8 and 16 tokens high and a product of one token is a kernel of its
own. From there on powers of two: that is where libraries change tiles (vLLM's dispatch takes the next power of two),
where tiles of 64, 128 and 256 rows end, and what engines pad a batch to. Between them the sizes that three tiles of 64,
128 and 256 rows fill and that powers of two miss.
"""


def parse(words: Sequence[str | int]) -> tuple[int, ...]:
    """The sizes that `words` name, in their order; `cliffs` stands for `CLIFF_SIZES`. No size comes twice.

    Raises ValueError for a word that is neither `cliffs` nor a whole number.
    """
    sizes: list[int] = []
    for word in words:
        if word == CLIFFS:
            sizes += CLIFF_SIZES
            continue
        try:
            sizes.append(int(word))
        except ValueError:
            raise ValueError(f"--batch-sizes {word!r}: expected whole numbers, or {CLIFFS}") from None
    return tuple(dict.fromkeys(sizes))
