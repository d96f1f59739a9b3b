"""The protocol of a replicated log, without I/O: what stands in its stream, who believes it."""
