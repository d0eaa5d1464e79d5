"""The weights of a model: what it has, what a probe proves of them, and how they are sent."""
