"""The libraries, each in a process of its own and some in an environment of their own (`tests.bench.peers.contestants`)."""
