"""Tools for testing code that uses Sandglass."""
