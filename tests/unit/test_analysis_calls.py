"""Every call of the contract has its analysis.  Run: .venv/bin/python -m pytest tests/unit/test_analysis_calls.py"""

from __future__ import annotations

from neuroscope.v1 import analysis_pb2
from neuroscope_analysis.servicers.analyses import CALLS


def test_every_streaming_call_has_an_analysis() -> None:
    methods = analysis_pb2.DESCRIPTOR.services_by_name["AnalysisService"].methods
    assert {method.name for method in methods if method.server_streaming} == set(CALLS)
