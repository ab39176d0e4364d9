"""Code that Triton compiles for the GPU. Nothing here is called from the host but through `calls`."""
