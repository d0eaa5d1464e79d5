"""Tracing: spans of this process and of the services it calls, and traces as files."""
