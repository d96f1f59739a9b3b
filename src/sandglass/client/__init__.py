"""The client: values, a session that does no I/O, and its asyncio face."""
