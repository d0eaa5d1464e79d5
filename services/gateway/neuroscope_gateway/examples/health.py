"""The example of the health route."""

from __future__ import annotations

from neuroscope_gateway.examples.example import MODEL_ID, Example

EXAMPLES: dict[str, Example] = {
    "GET /health": Example(
        answer={
            "status": "healthy",
            "service": "neuroscope-gateway",
            "version": "0.1.0",
            "inference": "127.0.0.1:50051",
            "models": [MODEL_ID],
            "workload": {
                "streams": 0,
                "decoding_rows": 0,
                "generated_tokens": 512,
                "captured_bytes": 1048576,
                "queue_wait_ms": 0.2,
                "weights_bytes": 4000000,
                "weights_budget_bytes": 0,
                "active_memory_bytes": 5000000,
                "peak_memory_bytes": 9000000,
                "shared_memory_streams": 0,
                "shared_memory_bytes": 0,
            },
        }
    ),
}
