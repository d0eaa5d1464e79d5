"""Tool calls: how a model writes them, the parser that finds them in its text, the grammar that enforces them."""
