"""The inference service: the only process that imports mlx. It owns models, caches, hooks and gradients."""
