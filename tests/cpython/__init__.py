"""CPython's own tests of event loops and executors, run against bridge on the running Python: `python -m tests.cpython`.

`event_loop`, `executor` and `process_pool` say which of CPython's test classes are run, which of their tests are left
out, in the place of which a test of ours is run, and why; `stock` finds them, `tally` counts. Nothing of CPython's is
copied here: the tests come from the `test` package that is installed with Python.
"""
