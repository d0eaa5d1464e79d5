"""Analysis of attention heads: `statistics` of patterns, `roles` by scores, `ablation_tests` of labels.

Patterns are accumulated chunk by chunk; only one chunk of one prompt is in memory.
"""
