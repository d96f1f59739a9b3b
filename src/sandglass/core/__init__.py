"""The machine: pure, synchronous, without an outside."""
