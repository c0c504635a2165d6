"""The diagnostics room: what has been noticed is said here, once, in one form. It imports nothing of bridge above it.

whoever notices something ──> Event ──> emit ──┬─> the `bridge` logger (each place once a minute)
                                               └─> every `on_event` callback (each time)
watchers, of loops and of executors ──> the watchdog, one thread that looks at all of them
"""
