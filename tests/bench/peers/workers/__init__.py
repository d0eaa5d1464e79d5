"""The libraries, each in a process of its own, started by `tests.bench.peers.contestants`."""
