"""Measurements beside other libraries: TransformerLens, nnsight, Hugging Face, mlx-lm. `make bench-peers`."""
