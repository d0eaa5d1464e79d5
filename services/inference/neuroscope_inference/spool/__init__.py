"""Streams that are kept on disk for a while, so that a reader can have them again, byte for byte.

`records` is the file format, `entry` one kept stream, `spool` the folder with its budget and its times,
`captured` a tensor out of one. Nothing here knows models, gRPC or event loops; every method may block on the disk.
"""
