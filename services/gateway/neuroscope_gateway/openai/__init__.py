"""A generation in OpenAI's response formats."""
