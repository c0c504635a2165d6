"""The worker side: all that a worker process imports, and no more than it needs."""
