"""A library that answers questions a line at a time: `python -m tests.bench.peers.workers MODULE WHERE`.

MODULE is one of this package, whose `open_library` takes WHERE: a model's folder, or a service's address.
"""

import sys
from importlib import import_module

from tests.bench.worker import answer

_, module, where = sys.argv
answer(import_module(f"tests.bench.peers.workers.{module}").open_library(where).answer)
