"""Composition of heads by their weights: `scores` between them, `analysis` from request to result."""
