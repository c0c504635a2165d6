"""The diagnostics room: what has been noticed is said here, once, in one form. It imports nothing of bridge above it.

the thread that notices ──> Event ──> emit ──┬─> every `on_event` callback (each time), each in its own thread
                                             └─> the `bridge` logger (each place once a minute), in a thread as well
watchers, of loops and of executors ──> the watchdog, one thread that looks at all of them
"""
