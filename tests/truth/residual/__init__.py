"""Components that write to known subspaces, a skip, an erase head and decoys, planted in a llama: `model` writes it."""
