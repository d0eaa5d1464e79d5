"""Composition of heads by their weights."""
