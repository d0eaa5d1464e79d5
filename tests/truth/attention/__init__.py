"""Heads of every role, planted in a gpt2, each with a decoy of the same pattern: `model` writes it."""
