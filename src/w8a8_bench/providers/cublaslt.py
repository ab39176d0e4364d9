"""cuBLASLt at its best: the fastest of the algorithms that it offers for a problem, each timed cold in `prepare`.

The choice is kept on disk, by all that it depends on: later processes restore it instead of timing anew.

`torch._scaled_mm` and `torch._int_mm` run the first choice of cuBLASLt's heuristic, from the same library. In its
terms, column-major, the product is

    D[n,m] = W[k,n]^T @ A[k,m],    leading dimensions n, k and k

W being the weight. Scales of one element are per tensor; vectors of n and of m elements are "outer vectors"; blockwise
are 128x128 for W, in columns of a multiple of 4 blocks, and 128 for A, m contiguous. INT8 has an int32 D alone: its
scaling is an element-wise operation of PyTorch's, timed with it, as in `torch._int_mm`'s rows.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from ctypes import c_float, c_int32
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from w8a8_bench import cache
from w8a8_bench.environment.architecture import HOPPER, tensor_cores_since
from w8a8_bench.environment.device import Device, dotted
from w8a8_bench.kernel import UNKNOWN_VERSION, Launches, PreparedKernel, Probe, Refused, Support
from w8a8_bench.problem import BLOCKWISE, PER_TENSOR, Activations, GemmShape, Problem
from w8a8_bench.problem.distribution import Distribution
from w8a8_bench.problem.formats import Format
from w8a8_bench.problem.kernel_name import KernelName
from w8a8_bench.problem.operands import Operands
from w8a8_bench.providers import cublaslt_api as api
from w8a8_bench.timing.measures import TIME_COLD
from w8a8_bench.timing.method import Bind, Uncapturable, rest
from w8a8_bench.timing.settings import DEFAULT_DUTY

if TYPE_CHECKING:
    import torch

    from w8a8_bench.correctness.operand_factory import OperandFactory

DISTRIBUTIONS = ("nvidia-cublas", "nvidia-cublas-cu12")

WORKSPACE_BYTES = 32 << 20
"""What NVIDIA recommends on Hopper, and enough for any split of k here."""

OFFERED = 128
"""Algorithms to ask for; the heuristic offers fewer."""

NEAR, FINALISTS, FINAL_SAMPLES = 1.03, 3, 3
"""Algorithms whose short look took at most so many times as long as the fastest look are timed again, so many of them,
so often. On an H200 (35 shapes, four kinds of products, at most 8 algorithms each) the choice takes 1.0001 times as
long as that of five samples of the ten fastest (geometric mean; 1.012 at most), in two fifths of the time. The looks
alone would choose what takes 1.0007 times as long (1.07 at most)."""

SEARCH = 2
"""Raise it if a choice is made in another way than before: choices on disk that were made otherwise are not found."""

KEPT_ELEMENTS = 2**27
"""Largest A and B, in elements, that are kept for the next kernel of a shape: 0.4 GB, which the timing then lacks."""

FP8_MULTIPLE, INT8_MULTIPLE = 16, 4
"""Of n and k in elements: leading dimensions of 16 bytes, of int8 4."""


def probe() -> Probe:
    for name in DISTRIBUTIONS:
        try:
            return Probe.found(importlib.metadata.version(name) or UNKNOWN_VERSION)
        except importlib.metadata.PackageNotFoundError:
            continue
    spec = importlib.util.find_spec("torch")
    if spec is not None and spec.origin is not None and any(Path(spec.origin).parent.glob("lib/libcublasLt.so*")):
        return Probe.found(UNKNOWN_VERSION)
    return Probe.missing("no cuBLAS is installed, which PyTorch for CUDA brings")


def _library(device_index: int = 0) -> api.CublasLt:
    import torch

    if torch.version.cuda is None:
        raise OSError("this PyTorch was built without CUDA")
    return api.load(int(torch.version.cuda.split(".")[0]), device_index)


def bind(
    library: api.CublasLt, offer: api.HeuristicResult, operands: Operands, workspace: torch.Tensor, *, fast_accum: bool
) -> Launches:
    """The launch of one algorithm on one operand set."""
    import torch

    from w8a8_bench.providers.pytorch import scale_int32

    scale_a, scale_b = scales(operands)
    is_int8 = operands.problem.format is Format.INT8
    d = torch.empty(operands.out.shape, dtype=torch.int32, device=operands.out.device) if is_int8 else operands.out
    made = describe(
        library,
        operands.problem,
        scale_a=scale_a.data_ptr(),
        scale_b=scale_b.data_ptr(),
        bias=None if operands.bias is None else operands.bias.data_ptr(),
        fast_accum=fast_accum,
    )
    pointers = (operands.b.data_ptr(), operands.a.data_ptr(), d.data_ptr())
    enqueue = library.launch(made, offer, pointers, (workspace.data_ptr(), workspace.nbytes))
    held = (operands, scale_a, scale_b, d, workspace)  # the library has addresses only
    device = operands.out.device

    def gemm() -> object:
        enqueue(torch.cuda.current_stream(device).cuda_stream)
        return held

    if not is_int8:
        return Launches(gemm)
    scale = scale_int32(d, operands)

    def gemm_and_scale() -> None:
        gemm()
        scale()

    return Launches(gemm_and_scale)


def describe(
    library: api.CublasLt, problem: Problem, *, scale_a: int, scale_b: int, bias: int | None, fast_accum: bool
) -> api.Product:
    """The product of `problem` in the library's terms, with the addresses that `fp8_attributes` takes."""
    m, n, k = problem.shape.m, problem.shape.n, problem.shape.k
    transposed = {api.TRANSA: api.OP_T}
    if problem.format is Format.INT8:
        operation = library.operation(api.COMPUTE_32I, api.CUDA_R_32I, transposed)
        inputs, output = api.CUDA_R_8I, api.CUDA_R_32I
    else:
        attributes = fp8_attributes(problem, scale_a=scale_a, scale_b=scale_b, bias=bias, fast_accum=fast_accum)
        operation = library.operation(api.COMPUTE_32F, api.CUDA_R_32F, {**transposed, **attributes})
        inputs, output = api.CUDA_R_8F_E4M3, _output(problem)
    a, b, d = library.layout(inputs, k, n), library.layout(inputs, k, m), library.layout(output, n, m)
    return api.Product(operation, a, b, d, scale=c_int32 if problem.format is Format.INT8 else c_float)


def _output(problem: Problem) -> int:
    return api.CUDA_R_16BF if problem.out is Format.BF16 else api.CUDA_R_16F


def scales(operands: Operands) -> tuple[torch.Tensor, torch.Tensor]:
    """Both scales as the library reads them; a copy if the library wants another layout or another number of them."""
    problem, (scale_a, scale_b) = operands.problem, operands.scales()
    if problem.scaling == BLOCKWISE:
        return scale_a.t().contiguous(), api.padded_block_scales(scale_b)
    if problem.format is Format.INT8 or problem.scaling == PER_TENSOR:
        return scale_a, scale_b
    m, n = operands.out.shape
    return scale_a.expand(m, 1).contiguous(), scale_b.expand(1, n).contiguous()


def fp8_attributes(
    problem: Problem, *, scale_a: int, scale_b: int, bias: int | None, fast_accum: bool
) -> dict[int, int]:
    """What the operation is told beyond its types, with addresses of the scales and of the bias, if there is one.

    The library's A is the weight, and its B the activations.
    """
    attributes = {api.A_SCALE_POINTER: scale_b, api.B_SCALE_POINTER: scale_a}
    if fast_accum:
        attributes[api.FAST_ACCUM] = 1
    if problem.scaling == BLOCKWISE:
        attributes[api.A_SCALE_MODE], attributes[api.B_SCALE_MODE] = api.SCALE_BLK128X128_32F, api.SCALE_VEC128_32F
    elif problem.scaling != PER_TENSOR:
        attributes[api.A_SCALE_MODE] = attributes[api.B_SCALE_MODE] = api.SCALE_OUTER_VEC_32F
    if bias is not None:
        attributes[api.EPILOGUE] = api.EPILOGUE_BIAS
        attributes[api.BIAS_POINTER] = bias
        attributes[api.BIAS_DATA_TYPE] = _output(problem)
    return attributes


_INT8_FOUND: dict[tuple[str, GemmShape, Format], PreparedKernel] = {}
"""The last INT8 product with the algorithm that was found for it, by device, shape and output."""


@dataclass(frozen=True)
class CublasLtKernel:
    """One name of this provider."""

    name: str

    @property
    def fast_accum(self) -> bool:
        return KernelName.parse(self.name).variant == "fast_accum"

    def supports(self, problem: Problem, device: Device) -> Support:
        reason = why_unsupported(KernelName.parse(self.name), problem, device)
        return Support.no(reason) if reason else Support.yes()

    def prepare(self, problem: Problem, device: Device) -> PreparedKernel:
        """Restore the algorithm that was chosen before, or choose one, which takes up to a second.

        Raises Refused if there is none. An INT8 product is the same under every scheme, since scaling is an operation
        of its own: its algorithm is looked for once.
        """
        if problem.format is not Format.INT8:
            return self._prepare(problem, device)
        key = device.torch_name, problem.shape, problem.out
        if key not in _INT8_FOUND:
            _INT8_FOUND.clear()  # of the shape before, to release its workspace
            _INT8_FOUND[key] = self._prepare(problem, device)
        return _INT8_FOUND[key]

    def _prepare(self, problem: Problem, device: Device) -> PreparedKernel:
        import torch

        library = _library(device.index)
        workspace = torch.empty(WORKSPACE_BYTES, dtype=torch.uint8, device=device.torch_name)
        somewhere = workspace.data_ptr()  # which algorithms there are does not depend on what is there
        product = describe(
            library,
            problem,
            scale_a=somewhere,
            scale_b=somewhere,
            bias=somewhere if problem.bias else None,
            fast_accum=self.fast_accum,
        )
        path = cache.path_of("cublaslt", *facts(library, problem, device, fast_accum=self.fast_accum))
        chosen = _restore(library, product, cache.read(path))
        cached = chosen is not None
        if chosen is None:
            bound = partial(bind, library, workspace=workspace, fast_accum=self.fast_accum)
            chosen = _search(library, product, problem, device, bound)
            cache.write(path, {"algorithm": bytes(chosen.offer.algo).hex(), "config": chosen.config})
        launches = partial(bind, library, chosen.offer, workspace=workspace, fast_accum=self.fast_accum)
        return PreparedKernel(launches, {**chosen.config, "cached": cached})


def facts(library: api.CublasLt, problem: Problem, device: Device, *, fast_accum: bool) -> tuple[object, ...]:
    """What the choice of an algorithm depends on. Of INT8, neither scheme nor bias: they are not the library's."""
    shape, of_library = problem.shape, problem.format is not Format.INT8
    return (
        *(library.version, device.name, device.sm_count, WORKSPACE_BYTES),
        *(problem.format.value, problem.out.value, shape.m, shape.n, shape.k),
        *((problem.scaling, problem.bias, fast_accum) if of_library else ()),
        SEARCH,
    )


@dataclass(frozen=True)
class Chosen:
    """An algorithm, and what the record says of it."""

    offer: api.HeuristicResult
    config: Mapping[str, object]


def _restore(library: api.CublasLt, product: api.Product, entry: object) -> Chosen | None:
    """The choice that an entry on disk holds; None if there is none, it is damaged, or the library does not take it."""
    if not isinstance(entry, dict):
        return None
    text, config = entry.get("algorithm"), entry.get("config")
    if not isinstance(text, str) or not isinstance(config, dict):
        return None
    try:
        data = bytes.fromhex(text)
    except ValueError:
        return None
    offer = library.restored(product, data, workspace_bytes=WORKSPACE_BYTES)
    return None if offer is None else Chosen(offer, config)


def _search(
    library: api.CublasLt,
    product: api.Product,
    problem: Problem,
    device: Device,
    bound: Callable[[api.HeuristicResult, Operands], Launches],
) -> Chosen:
    """The fastest algorithm of those that the library offers. Raises Refused if it offers none, or none runs."""
    started = time.perf_counter()
    offers = library.algorithms(product, workspace_bytes=WORKSPACE_BYTES, count=OFFERED)
    if not offers:
        raise Refused(f"cuBLASLt {library.version} offers no algorithm for {problem.scaling} at {problem.shape}")
    binds = [partial(bound, offer) for offer in offers]
    seconds = _time(binds, _operands(problem, device), device)
    if not seconds:
        raise Refused(f"none of the {len(binds)} algorithms that cuBLASLt {library.version} offers runs")
    best = min(seconds, key=seconds.__getitem__)
    config: dict[str, object] = {
        "library": f"cuBLASLt {library.version}",
        "offered": len(offers),
        "rank": best,
        **library.config(offers[best]),
        "workspace_bytes": offers[best].workspace_bytes,
        "tuned_s": seconds[best],
        "first_choice_s": seconds.get(0),
        "timed": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "how": f"cold, in replayed graphs: a short look at {len(binds)}, then {len(seconds)} within {NEAR - 1:.0%}",
        "search_s": round(time.perf_counter() - started, 3),
    }
    return Chosen(offers[best], config)


_MADE: dict[tuple[str, GemmShape], OperandFactory] = {}
"""What the last search's operands came from, by device and shape: kernels of one format and scheme share them."""


def _operands(problem: Problem, device: Device) -> Operands:
    """Operands to time algorithms on."""
    from w8a8_bench.correctness.operand_factory import OperandFactory

    key, shape = (device.torch_name, problem.shape), problem.shape
    if key not in _MADE:
        _MADE.clear()
        factory = OperandFactory(shape, device.torch_name, data=Distribution.NORMAL.value, seed=0)
        if (shape.m + shape.n) * shape.k > KEPT_ELEMENTS:
            return factory.make(problem)
        _MADE[key] = factory
    return _MADE[key].make(problem)


def _time(binds: Sequence[Bind], operands: Operands, device: Device) -> dict[int, float]:
    """Median seconds of the finalists among algorithms, by index."""
    from w8a8_bench.timing.cuda_graph import GraphMethod

    method = GraphMethod(device, (TIME_COLD,))

    def ready(one: Bind) -> Sampled:
        sampler = method.ready(one, operands).samplers[TIME_COLD]

        def sample() -> float:
            """As the headline is sampled, rests included."""
            started = time.perf_counter()
            seconds = sampler.sample().seconds
            rest(time.perf_counter() - started, DEFAULT_DUTY)
            return seconds

        return sample

    return time_finalists(
        [partial(method.period, one, operands) for one in binds], [partial(ready, one) for one in binds]
    )


Sampled = Callable[[], float]
"""One cold sample of one algorithm, in seconds."""


def time_finalists(looks: Sequence[Callable[[], float]], ready: Sequence[Callable[[], Sampled]]) -> dict[int, float]:
    """Seconds by index of the fastest algorithms: of one short look at each, and if several are `NEAR`, of samples.

    An algorithm that does not run is left out; the library may not know this before the launch. Only finalists are kept
    ready, since copies of operands fill memory.
    """
    seconds: dict[int, float] = {}
    for index, look in enumerate(looks):
        with contextlib.suppress(api.CublasLtError, Uncapturable):
            seconds[index] = look()
    order = sorted(seconds, key=seconds.__getitem__)
    near = [index for index in order if seconds[index] <= NEAR * seconds[order[0]]][:FINALISTS]
    if len(near) < 2:
        return {index: seconds[index] for index in near}
    samplers = {index: ready[index]() for index in near}
    taken: dict[int, list[float]] = {index: [] for index in near}
    for _ in range(FINAL_SAMPLES):
        for index, sample in samplers.items():
            taken[index].append(sample())
    return {index: statistics.median(values) for index, values in taken.items()}


def why_unsupported(name: KernelName, problem: Problem, device: Device) -> str | None:
    """The limit that `problem` on `device` is past, or None: then only the library can tell."""
    shape, scaling = problem.shape, problem.scaling
    if reason := name.why_not_under(scaling):
        return reason
    if problem.activations is not Activations.PREQUANTIZED:
        return "cuBLASLt takes activations that are quantized already"
    if not device.is_cuda or device.capability is None:
        return "cuBLASLt needs an NVIDIA GPU"
    capability = dotted(device.capability)
    since = tensor_cores_since(Format.FP8)
    if problem.format is Format.FP8 and device.capability < since:
        return f"fp8 needs compute capability {dotted(since)} or newer, and {device.name} has {capability}"
    multiple = FP8_MULTIPLE if problem.format is Format.FP8 else INT8_MULTIPLE
    for size, value in (("n", shape.n), ("k", shape.k)):
        if value % multiple:
            return f"{size}={value} is not a multiple of {multiple}, which cuBLASLt needs for {problem.format.value}"
    if problem.format is Format.FP8 and scaling != PER_TENSOR:
        if not api.has_fine_scales(device):
            return (
                f"cuBLASLt has {scaling} on compute capability {dotted(HOPPER)} with "
                f"CUDA {dotted(api.FINE_SCALES_SINCE_CUDA)} or newer, and this is {capability} with "
                f"CUDA {dotted(device.cuda)}"
            )
        if name.is_blockwise and shape.m % api.BLOCKWISE_ROWS:
            return f"m={shape.m} is not a multiple of {api.BLOCKWISE_ROWS}, which cuBLASLt needs for {scaling}"
    return None


def kernel(name: str) -> CublasLtKernel:
    _library()
    return CublasLtKernel(name)
