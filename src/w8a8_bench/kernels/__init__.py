"""GEMM and quantization kernels of this project's own: a package for each language that they are written in."""
