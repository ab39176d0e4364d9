"""Are answers right? operands, quantization, the oracle, and guards around outputs and inputs."""
