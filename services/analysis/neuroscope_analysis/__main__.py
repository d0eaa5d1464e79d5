"""`python -m neuroscope_analysis`: starts the analysis service. `--help` lists its configuration."""

from __future__ import annotations

import sys

from neuroscope_analysis.server import NAME, serve
from neuroscope_analysis.settings import AnalysisSettings
from neuroscope_serving import program


def main() -> int:
    """Serves until it is stopped; returns the exit status."""
    return program.run(NAME, AnalysisSettings, serve)


if __name__ == "__main__":
    sys.exit(main())
