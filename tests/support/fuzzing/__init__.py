"""Requests that nobody would write: good ones made from the contract's descriptors, and ways to spoil them.

`wire_tree` is a serialised message taken apart, `sensible` makes good requests, `mutations` changes them by field and
by byte. Nothing here knows services or connections.
"""
