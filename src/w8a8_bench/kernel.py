"""The seam between the benchmark and what it measures: a kernel, what it answers, and what becomes of it.

A provider is a module, of this package or anybody's (docs/adding-a-provider.md shows one whole), with

    KERNELS        names of its kernels by the grammar in `problem.kernel_name`, in the order in which they run
    ON_REQUEST     names of those that run only when named; may be left out
    probe()        a `Probe`: its library's version, or why it is not to be had. Imports no library
    kernel(name)   the `Kernel` of that name. Imports and loads its library; what that raises becomes the row's reason

The commands read KERNELS and `probe` on every call, so the module imports its library inside `kernel`, or later. Of the
built-in ones the names stand in `providers/registry.py` instead, and those modules import what they like.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum, IntEnum
from typing import TYPE_CHECKING, Protocol

from w8a8_bench.environment.device import Device
from w8a8_bench.problem import Problem
from w8a8_bench.problem.kernel_name import KernelName
from w8a8_bench.problem.operands import Operands
from w8a8_bench.text import shown

if TYPE_CHECKING:
    import torch

Launch = Callable[[], object]
"""A prepared kernel bound to one operand set. It only enqueues work on the current stream.

It writes D to `operands.out`. If the library allocates D itself, the launch returns that tensor instead: [m,n] with any
strides, in the out format, on the operands' device. The runner copies it into `out` outside the timed region and judges
it there; `config["output"]` in the record is then "returned". Operand sets must not share the memory of a returned
tensor, since that output would stay in the cache while those of other kernels do not. Any other result (None, `out`, a
tuple) means that the launch wrote `out`.
"""


@dataclass(frozen=True)
class Codes:
    """The tensors of one operand set that a library's own quantization writes and its GEMM reads.

    q        [m,k] in the problem's format, any strides
    scale    fp32, any strides: [1,1] per tensor, [m,1] per token, [m, ceil(k/128)] per group. If the scale is given
             (static activations), `operands.scale_a`
    azp      int32 [m,1] with a zero point per token, `operands.azp` if it is given, else None

    `bind` allocates them for each operand set, since a GEMM that is timed alone must not find them in the cache.
    """

    q: torch.Tensor
    scale: torch.Tensor
    azp: torch.Tensor | None = None


@dataclass(frozen=True)
class Launches:
    """The launches of one bound kernel. Once called the first time, none may allocate device memory except through
    PyTorch's allocator, as for an output that it returns.

    `quant` and `gemm` are there for activations quantized inside the timed region: each part alone.

    `codes` is for a library whose own quantization is not the reference's bit for bit. After `total` they are compared
    with A (`correctness.library_codes`), and D must be the product of these codes. Without it D must be the product of
    the reference's codes.
    """

    total: Launch
    quant: Launch | None = None
    gemm: Launch | None = None
    codes: Codes | None = None

    def __post_init__(self) -> None:
        if self.codes is not None and not isinstance(self.codes, Codes):
            raise TypeError(f"Launches: codes is {shown(self.codes)}: expected Codes(q, scale, azp)")
        for part in ("total", "quant", "gemm"):
            launch = getattr(self, part)
            if not callable(launch) and (launch is not None or part == "total"):
                raise TypeError(f"Launches: {part} is {shown(launch)}: expected what can be called without arguments")


@dataclass(frozen=True)
class Support:
    """Yes, or no with the reason. A refusal is data, shown to the user as it stands."""

    ok: bool
    reason: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.ok, bool):
            raise TypeError(f"Support: ok is {shown(self.ok)}: expected True or False")
        if not isinstance(self.reason, str):
            raise TypeError(f"Support: the reason is {shown(self.reason)}: expected text")

    @classmethod
    def yes(cls) -> Support:
        return cls(True)

    @classmethod
    def no(cls, reason: str) -> Support:
        return cls(False, reason)

    def __bool__(self) -> bool:
        return self.ok


UNKNOWN_VERSION = "unknown version"


@dataclass(frozen=True)
class Probe:
    """Whether a library is there, found out without importing it: its version, or the reason why it can't be used."""

    installed: bool
    version: str = ""
    reason: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.installed, bool):
            raise TypeError(f"Probe: installed is {shown(self.installed)}: expected True or False")
        for name in ("version", "reason"):
            text = getattr(self, name)
            if not isinstance(text, str):
                raise TypeError(f"Probe: the {name} is {shown(text)}: expected text")
        if not self.installed and not self.reason:
            raise ValueError("Probe: what is missing has no reason: say what, and what to install")

    @classmethod
    def found(cls, version: str) -> Probe:
        return cls(True, version=version)

    @classmethod
    def missing(cls, reason: str) -> Probe:
        """It is not installed. The provider's kernels are left out of a run that does not ask for them."""
        return cls(False, reason=reason)

    @classmethod
    def broken(cls, reason: str) -> Probe:
        """It is installed, but not whole or not for this machine. The provider's kernels refuse for that reason."""
        return cls(True, reason=reason)

    @classmethod
    def of(cls, package: str, distribution: str = "") -> Probe:
        """Look for an importable `package`, and for the version of the distribution that it comes in.

        The distribution is by default called as the package is. A directory without `__init__.py` is no package.
        """
        import importlib.metadata  # here, since it takes longer to import than `--help` takes to run
        import importlib.util

        if not package:
            raise ValueError("Probe.of(''): expected the name that the library has in an import")
        distribution = distribution or package
        spec = importlib.util.find_spec(package)
        if spec is None or spec.origin is None:
            return cls.missing(f"{distribution} is not installed")
        try:
            return cls.found(importlib.metadata.version(distribution) or UNKNOWN_VERSION)
        except importlib.metadata.PackageNotFoundError:
            return cls.found(UNKNOWN_VERSION)  # a source tree on the path

    def __bool__(self) -> bool:
        return not self.reason

    def __str__(self) -> str:
        return self.reason or self.version


class Refused(Exception):
    """Raised if only the library itself can tell, best in `prepare`: the cell is `unsupported`, for this reason."""


class CompileError(RuntimeError):
    """Raised if the compiler of a kernel fails: the cell is a `compile_error`. Triton's own errors count as such."""


class Prepared(Protocol):
    """A kernel compiled and configured for a problem on a device, with its workspace."""

    @property
    def config(self) -> Mapping[str, object]:
        """What was chosen (tile, cluster, split, ...); it goes into the record."""
        ...

    def bind(self, operands: Operands, /) -> Launches:
        """Convert layouts and return the launches. Called once for each operand set, outside any timed region.

        A launch reads `operands.a` as it then is: the check after timing changes it. Weights, scales, zero points and
        bias stay what they are at `bind`. Neither writes to any of them: other kernels get the same tensors.
        """
        ...


@dataclass(frozen=True)
class PreparedKernel:
    """A `Prepared` made of a function, which holds everything that it needs beside the operands."""

    bind: Callable[[Operands], Launches]
    config: Mapping[str, object] = field(default_factory=dict)


class Kernel(Protocol):
    """One implementation of a family of problems, named by the grammar in `problem.kernel_name`.

    It may have an attribute `fast_accum: bool`: whether it sums FP8 products in the tensor core's short accumulator, as
    kernels named `*_fast_accum` do. The check then tolerates the larger error. Without it the kernel is held to the
    error of fp32 sums. It has no effect on int8 and on blockwise products, whose tolerance is the same either way.

    It may have a method `build_key(problem, device) -> str | None` if its library compiles in `prepare` or at the first
    launch and keeps the result on disk. The text is equal if the compiled code is equal, so it names the configuration
    and whatever else the code depends on, but for versions; None if there is nothing to compile. A sweep runs one
    `prepare`, `bind` and launch for each new text before it measures, in processes beside each other, and remembers the
    text together with the versions of the library and the GPU. It is asked only what `supports` accepts. With it may
    come an attribute `build_s: float`, about how many seconds a build takes (default 2): the longest begin first.
    """

    @property
    def name(self) -> str: ...

    def supports(self, problem: Problem, device: Device) -> Support:
        """Whether the kernel computes `problem`, which has a meaning, on `device`. Never raises and needs no GPU."""
        ...

    def prepare(self, problem: Problem, device: Device) -> Prepared:
        """Compile, choose a configuration and allocate workspace. May be slow; may raise, a refusal as `Refused` and a
        compiler that fails as `CompileError`."""
        ...


def sums_fast(kernel: Kernel) -> bool:
    """Whether the check tolerates the error of the short accumulator: the kernel declares it, or its name says so."""
    return getattr(kernel, "fast_accum", False) is True or KernelName.parse(kernel.name).variant == "fast_accum"


class Step(IntEnum):
    """What of a kernel runs. Each has the time of `--step-limit` for itself, and a lost worker's reason names it."""

    ASK = 1
    PREPARE = 2
    BIND = 3
    LAUNCH = 4
    MAKE_READY = 5
    SAMPLE = 6
    LAUNCH_AGAIN = 7
    BUILD = 8

    def __str__(self) -> str:
        return _STEPS[self]


_STEPS = {
    Step.ASK: "kernel(), supports() or build_key()",
    Step.PREPARE: "prepare()",
    Step.BIND: "bind()",
    Step.LAUNCH: "its first launch",
    Step.MAKE_READY: "bind() or a launch, before timing",
    Step.SAMPLE: "a timed launch",
    Step.LAUNCH_AGAIN: "a launch after timing",
    Step.BUILD: "prepare(), bind() or its first launch, ahead of the measuring",
}


class Status(str, Enum):
    """What became of a cell. Everything but `OK` comes with a reason."""

    OK = "ok"
    UNSUPPORTED = "unsupported"
    FAILED = "failed"
    COMPILE_ERROR = "compile_error"
    INCORRECT = "incorrect"
    OUT_OF_MEMORY = "out_of_memory"
    CRASHED = "crashed"
    TIMED_OUT = "timed_out"
    UNCAPTURABLE = "uncapturable"
    IMPLAUSIBLE = "implausible"
    SKIPPED = "skipped"


FAULTS = (Status.INCORRECT, Status.CRASHED, Status.FAILED, Status.TIMED_OUT, Status.COMPILE_ERROR)
"""Statuses after which a complete sweep still exits with code 3: something is broken, not merely refused."""
