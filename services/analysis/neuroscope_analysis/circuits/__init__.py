"""Circuits: edges or nodes of a model's graph are scored, the strongest are kept and evaluated without the rest.

`runs` has the metric of the pairs' runs with any edges changed, `scoring` and `acdc` say what each edge or node is
worth, `effects` whether there is anything to find, `selection` what is kept, `evaluation` how well that does.
"""
