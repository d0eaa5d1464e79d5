"""Models whose mechanism is known, because it was written by hand: what analyses are held to."""
