"""How vLLM and SGLang are told to run the kernels of a library: read in the sources of the releases named here.

vLLM: `--linear-backend` (`config/kernel.py`) picks among the kernels in `model_executor/kernels/linear/__init__.py`.
SGLang: `--fp8-gemm-backend` (`srt/arg_groups`) is for FP8 in blocks alone; everything else is decided in
`srt/layers/quantization/fp8_utils.py` and beside it. Another release may differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from w8a8_bench.problem import Azp
from w8a8_bench.problem.formats import Format
from w8a8_bench.report.scheme import Scheme

CHANNELS = ("channel-w-tensor-a", "channel-w-token-a")
ONE_WEIGHT_SCALE = ("tensor-w-tensor-a", "tensor-w-token-a")
NOT_BLOCKS = (*ONE_WEIGHT_SCALE, *CHANNELS)
BLOCKS = ("block-w-group-a",)
OWN = {
    name: f"kernels of w8a8-bench; the engine's {title} kernels are others"
    for name, title in (("cutlass", "CUTLASS"), ("triton", "Triton"))
}
"""What is said of this project's libraries, for whose names engines have options too."""

BY_DEFAULT = 'what "auto" takes too'


@dataclass(frozen=True)
class Way:
    """How an engine runs what was measured as `provider`'s kernels, under some schemes of a format.

    option    what to start the engine with; empty: there is no such option
    runs      whether it runs them; True without an option: it does so anyway
    every_m   False: for small m only
    with_azp  zero points too
    """

    provider: str
    format: Format
    schemes: Sequence[str]
    option: str = ""
    remark: str = ""
    runs: bool = True
    every_m: bool = True
    with_azp: bool = False

    @property
    def text(self) -> str:
        if self.option:
            return self.option
        return "no option is needed" if self.runs else "none"


@dataclass(frozen=True)
class Engine:
    """A release of an inference engine. What no way names, it has no way to run, or none was found."""

    name: str
    version: str
    ways: Sequence[Way]

    def __str__(self) -> str:
        return f"{self.name} {self.version}"

    def way(self, scheme: Scheme, provider: str) -> Way:
        """How it runs kernels of `provider` under `scheme`, or that it does not."""
        name = scheme.scaling.name if scheme.scaling else ""
        for way in self.ways:
            azp_fits = scheme.azp is Azp.NONE or way.with_azp
            if way.provider == provider and way.format is scheme.format and name in way.schemes and azp_fits:
                return way
        return Way(provider, scheme.format, (name,), remark=OWN.get(provider, ""), runs=False)


VLLM = Engine(
    "vLLM",
    "0.33.0",
    (
        Way(
            *("vllm", Format.FP8, NOT_BLOCKS, "--linear-backend cutlass"),
            f"{BY_DEFAULT} below compute capability 10.0",
        ),
        Way(*("vllm", Format.FP8, BLOCKS, "--linear-backend cutlass"), '"auto" takes FlashInfer or DeepGEMM first'),
        Way(*("vllm", Format.INT8, NOT_BLOCKS, "--linear-backend cutlass"), BY_DEFAULT, with_azp=True),
        Way(
            *("deepgemm", Format.FP8, BLOCKS, "--linear-backend deep_gemm"),
            "vLLM does not start unless each n is a multiple of 64 and k of 128; not with VLLM_USE_DEEP_GEMM=0",
        ),
        Way(
            *("flashinfer", Format.FP8, BLOCKS, "--linear-backend flashinfer_cutlass"),
            "FlashInfer for m below 32, DeepGEMM from there on",
            every_m=False,
        ),
        Way(
            *("pytorch", Format.FP8, ("tensor-w-tensor-a",), "--linear-backend torch"),
            "without fast accumulation",
        ),
        Way(*("pytorch", Format.FP8, BLOCKS, "--linear-backend torch"), "compute capability 9.0 only"),
        Way(
            *("pytorch", Format.FP8, (*CHANNELS, "tensor-w-token-a")),
            remark="its backend torch multiplies without these scales and applies them afterwards",
            runs=False,
        ),
    ),
)

SGLANG = Engine(
    "SGLang",
    "0.5.23",
    (
        Way(
            *("sglang", Format.FP8, CHANNELS),
            remark="not with USE_TRITON_W8A8_FP8_KERNEL=1. On compute capability 9.0 PyTorch's kernel runs instead for "
            "m from 8192 on in wide layers",
        ),
        Way(
            *("sglang", Format.FP8, ONE_WEIGHT_SCALE),
            remark="only checkpoints with quant_method fp8, whose scale it repeats for each channel",
        ),
        Way(
            *("sglang", Format.FP8, BLOCKS),
            remark="it refuses --fp8-gemm-backend cutlass except on compute capability 12.0",
            runs=False,
        ),
        Way(*("sglang", Format.INT8, ("channel-w-token-a",)), remark="its only INT8 GEMM on NVIDIA GPUs"),
        Way(
            *("sglang", Format.INT8, ("tensor-w-tensor-a", "channel-w-tensor-a")),
            remark="it always quantizes to INT8 with a scale a token",
            runs=False,
        ),
        Way(
            *("deepgemm", Format.FP8, BLOCKS, "--fp8-gemm-backend deep_gemm"),
            f"{BY_DEFAULT} on compute capability 9.0; Triton for shapes that DeepGEMM lacks; "
            "not with SGLANG_ENABLE_JIT_DEEPGEMM=0",
        ),
        Way(
            *("flashinfer", Format.FP8, BLOCKS, "--fp8-gemm-backend flashinfer_deepgemm"),
            "compute capability 9.0; FlashInfer for m below 32, DeepGEMM from there on",
            every_m=False,
        ),
        Way(
            *("pytorch", Format.FP8, ("tensor-w-tensor-a",)),
            remark="only compressed-tensors checkpoints with a static scale for activations; without fast accumulation",
        ),
    ),
)

ENGINES = (VLLM, SGLANG)
