"""Measuring: one comparison, and many of them on every device."""
