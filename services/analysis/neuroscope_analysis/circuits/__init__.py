"""Circuit discovery and evaluation.

`effect_test` tests whether the prompts make a difference, `scoring` and `acdc` score edges or nodes, `selection` keeps
the strongest, `evaluator` measures the circuit. `pair_runs` runs the pairs with any edges patched.
"""
