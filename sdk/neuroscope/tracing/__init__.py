"""Spans of this process and of all that take part in a trace, and a trace as files."""
