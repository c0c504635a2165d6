"""Benchmarks: `python -m benchmarks threads` or `processes`. See `__main__` for the command, `measure` for the method."""
