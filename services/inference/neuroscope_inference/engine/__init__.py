"""The engine: the only package that touches MLX. One thread loads, hooks, runs and evaluates every model.

The fast BLAS must be open before `mlx.core` is imported, so importing this package opens it.
"""

from neuroscope_inference import blas

BLAS = blas.load()
"""Which BLAS MLX's CPU backend calls."""
