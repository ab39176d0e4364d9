"""A stand-alone benchmark for W8A8 GEMMs: INT8 and FP8 weights and activations, on NVIDIA GPUs and CPUs."""

__version__ = "0.1.0"
