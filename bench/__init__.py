"""Rates, CPU per message and latencies of a node, beside floors measured in the same run."""

import os

# Before gRPC is loaded, here and in the servers: it would comment on every start of a process.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
