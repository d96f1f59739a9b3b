"""Sandglass: a message queue ordered by time."""
