"""Models that have a short name: which there are, and how one comes to this machine."""
