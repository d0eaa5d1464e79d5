"""`python -m neuroscope_analysis.probe [HOST:PORT]`: exit status 0 if the service is healthy."""

from __future__ import annotations

import sys

from neuroscope_analysis.settings import DEFAULT_PORT
from neuroscope_serving import probe

if __name__ == "__main__":
    sys.exit(probe.main(sys.argv[1:], "NEUROSCOPE_ANALYSIS_", DEFAULT_PORT))
