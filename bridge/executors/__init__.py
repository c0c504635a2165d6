"""Executors: places where functions run. All take Jobs, all are `concurrent.futures.Executor`s, all can be awaited."""
