"""Messages on the wire, and their way to and from core values."""
