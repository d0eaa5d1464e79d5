"""Reductions of captured tensors inside the model's graph: less is sent, and nothing is computed twice."""
