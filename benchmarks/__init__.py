"""Benchmarks: `python -m benchmarks threads`. See `__main__` for the command, `measure` for how it is measured."""
