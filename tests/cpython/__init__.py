"""CPython's own tests of event loops and executors, run against bridge on the running Python: `python -m tests.cpython`.

`event_loop` and `executor` say which of CPython's test classes are run, and which of their tests are left out and why;
`tally` counts. Nothing of CPython's is copied here: the tests come from the `test` package that is installed with Python.
"""
