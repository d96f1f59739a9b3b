"""
Three nodes and their engines on loopback: rates beside the bare engine's, failover, idle cost,
replicas that catch up.

    python -m bench.cluster [--quick] [--line NAME ...] [--kills N]
        [--megabytes N] [--json | --markdown]
"""
