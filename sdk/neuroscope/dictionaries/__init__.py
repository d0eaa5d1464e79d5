"""Dictionaries: sparse autoencoders and transcoders, loaded by the service.

    sae = client.dictionaries.load("models/dictionaries/resid_post_2")
    seen = sae.features("The capital of France is")          the most active features at every position
    seen.table()
    client.generate(prompt, interventions=[sae.clamp(7, 5.0)])
    client.generate(prompt, hooks=[sae.hook(top=8)])          features of every step
    client.ablate(prompt).features(sae, seen.active(-1)).run(metric=log_prob(" Paris"))
    sae.attribute(clean, corrupted, metric=logit_diff(" Mary", " John")).top(5)

`Client.dictionaries` loads and lists dictionaries.
"""

from neuroscope.dictionaries.dictionary import Dictionary
from neuroscope.dictionaries.features import FeatureActivations

__all__ = ["Dictionary", "FeatureActivations"]
