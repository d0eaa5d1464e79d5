"""The REST gateway: OpenAI's chat interface and the NeuroScope activation format over HTTP.

It translates and never computes: every route is one call of the inference service and a mapping of its answer.
"""
