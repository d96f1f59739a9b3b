"""Sessions for partitions that other nodes lead."""
