"""Comparison of attention patterns on two prompts: `alignment` of positions, `divergence` of patterns."""
