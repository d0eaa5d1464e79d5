"""An induction circuit, planted in a gpt2 of two layers and four heads: `model` writes it, `prompts` asks it."""
