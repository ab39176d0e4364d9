"""Which kernel and which scheme to run a model with."""
