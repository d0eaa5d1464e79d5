"""Attention patterns of two prompts, beside each other: `alignment` of positions, `divergence` of patterns."""
