"""Stubs of package `sandglass.v1`, our own contract."""
