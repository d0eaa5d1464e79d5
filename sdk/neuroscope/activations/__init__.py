"""What was captured, as values: activations by name, streams of tokens, and what each layer would predict."""
