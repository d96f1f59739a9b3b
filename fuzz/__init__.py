"""Random bytes against every decoder: targets, and the command that runs them (`make fuzz`)."""
