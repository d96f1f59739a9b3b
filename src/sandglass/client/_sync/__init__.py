"""The synchronous face of the client: threads in front, the asyncio client behind."""
