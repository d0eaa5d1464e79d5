"""The JSON of every route as pydantic models, which validate requests and describe them in OpenAPI."""
