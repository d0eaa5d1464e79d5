"""Measurements beside other libraries: TransformerLens, nnsight, Hugging Face, mlx-lm and its server. `make bench-peers`."""
