"""Right answers: operands, quantization, the oracle, and guards around outputs and inputs."""
