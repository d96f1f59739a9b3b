"""The two commands: sandglass and sandctl."""
