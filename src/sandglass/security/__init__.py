"""Who is let in, and that nobody listens: tokens and TLS, for every surface and the client."""
