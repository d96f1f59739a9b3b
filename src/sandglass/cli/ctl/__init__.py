"""The sandctl command."""
