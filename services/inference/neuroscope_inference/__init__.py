"""The inference service: the one process that imports mlx, and the owner of models, caches, hooks and gradients."""
