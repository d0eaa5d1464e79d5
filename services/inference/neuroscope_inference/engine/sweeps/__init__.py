"""Sweeps: many edited runs of a few prompts, each scored by one number.

`sweep` runs one, `grids` says what its cells are, `metrics` how a run is scored. Patches run one by one (`run`), or as
rows of batches that compute only what an edit can change (`batch`, with `flow` and `prefix`); `proof` shows by a probe
whether a model lends itself to that, and `submissions` says which patches run together.
"""
