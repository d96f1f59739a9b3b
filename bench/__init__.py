"""Rates, CPU per message and latencies of a node, beside floors measured in the same run."""
