"""Pictures of captures. They need matplotlib: pip install 'neuroscope-mlx[viz]'."""
