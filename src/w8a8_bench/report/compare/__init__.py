"""Two sets of results, compared."""
