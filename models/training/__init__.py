"""Trains the bundled default model, from corpus to model card: ``python -m training`` in the folder above."""

import os

# OpenMP threads that spin while they wait slow each other down on a busy machine; torch reads this as it loads.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
