"""The residual stream: what is written into it, what that does to logits, what layers predict, what is read of it."""
