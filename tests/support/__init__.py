"""Support for tests: random models, an independent numpy forward pass, comparisons."""
