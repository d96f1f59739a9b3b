"""Stubs of package `sandglass`, the compatible contract."""
