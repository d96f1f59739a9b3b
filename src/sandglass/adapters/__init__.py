"""The ports made real: log, view, clock, entropy."""
