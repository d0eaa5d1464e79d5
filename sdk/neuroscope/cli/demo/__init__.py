"""`neuroscope demo`: the tour on one model, and the checks of what it shows."""
