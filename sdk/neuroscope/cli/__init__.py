"""The command `neuroscope`."""
