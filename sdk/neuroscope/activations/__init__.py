"""Captured activations, token streams and logit lens results."""
