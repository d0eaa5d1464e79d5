"""Grammars that restrict which tokens a row may draw, compiled and run by llguidance."""
