"""Cells over many runs: where their times changed, and what else did."""
