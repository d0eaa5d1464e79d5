"""Dictionaries of a model: sparse autoencoders and transcoders as functions of activations.

`configuration` reads what cfg.json says, `weights` the tensors, `loading` holds both against a model; `dictionary`
encodes and decodes, `changes` edits features, `library` keeps what is loaded.
"""
