"""Where shapes come from: squares, ranges, models, CSV files. Each file makes `LabelledShape`s, or says what is wrong."""
