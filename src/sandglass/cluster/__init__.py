"""A node's part in a cluster: who its members are, and which replicated partitions it leads."""
