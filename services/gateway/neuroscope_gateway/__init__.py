"""The REST gateway: OpenAI's API and the NeuroScope activation format over HTTP.

The gateway translates and does not compute: every route calls the inference or analysis service and maps the result.
"""
