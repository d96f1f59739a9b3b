"""
Three nodes and their engines on loopback: rates beside the bare engine's, failover, idle cost.

    python -m bench.cluster [--quick] [--line NAME ...] [--kills N] [--json | --markdown]
"""
