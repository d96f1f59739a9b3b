"""Public tools for testing with Sandglass: a broker in your own process."""

from sandglass.testing.broker import Broker

__all__ = ["Broker"]
