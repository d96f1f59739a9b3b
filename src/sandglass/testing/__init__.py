"""Public tools for testing with Sandglass: a broker in your own process."""

from sandglass.testing.broker import BlockingBroker, Broker

__all__ = ["BlockingBroker", "Broker"]
