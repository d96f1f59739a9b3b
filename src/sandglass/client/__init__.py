"""The client: a session and its asyncio face."""
