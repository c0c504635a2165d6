"""Benchmarks: `python -m benchmarks threads|processes|diagnostics`. See `__main__` and, for the method, `measure`."""
