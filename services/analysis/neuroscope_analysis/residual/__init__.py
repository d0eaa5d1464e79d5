"""Analyses of the residual stream: contributions, logit attribution, lenses, routing, ablation, information flow."""
