"""`python -m neuroscope_inference.probe [HOST:PORT]`: a health check; exit status 0 if the service is serving."""

from __future__ import annotations

import sys

from neuroscope_serving import probe

if __name__ == "__main__":
    sys.exit(probe.main(sys.argv[1:], "NEUROSCOPE_INFERENCE_", 50051))
