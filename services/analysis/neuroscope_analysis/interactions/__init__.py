"""Interactions between heads by path patching."""
