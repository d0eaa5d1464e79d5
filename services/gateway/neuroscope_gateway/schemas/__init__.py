"""The JSON of every route, as pydantic models: the single definition of what is accepted and of what OpenAPI shows."""
