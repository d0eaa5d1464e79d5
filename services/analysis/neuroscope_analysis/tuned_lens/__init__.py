"""Training of tuned lenses (Belrose et al. 2023, arXiv:2303.08112)."""
