"""The shell around the core: batching, delivery, recovery."""
