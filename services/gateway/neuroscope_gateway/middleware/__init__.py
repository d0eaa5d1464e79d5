"""ASGI middleware, in the order of `neuroscope_gateway.app`."""
