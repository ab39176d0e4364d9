"""The project's own GEMM kernels, a package for each language that they are written in."""
