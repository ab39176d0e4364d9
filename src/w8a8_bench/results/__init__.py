"""What is kept of a run, and the files that it is kept in."""
