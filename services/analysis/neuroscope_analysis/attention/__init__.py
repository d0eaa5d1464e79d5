"""Attention heads: `statistics` of their patterns, `roles` by their scores, `confirmation` by ablation.

Patterns are summed up chunk by chunk; those of more than one chunk of one prompt are never held.
"""
