"""On the path of a process, adds the planted kernels to the registry before anything is imported."""

from planted import CUDA_FAULTS, FAULTS, NAME

from w8a8_bench.providers import registry

registry.PROVIDERS += tuple(
    registry.Provider(fault, "planted", (NAME.format(fault),)) for fault in {**FAULTS, **CUDA_FAULTS}
)
