"""`python -m neuroscope_gateway.probe [URL]`: exit status 0 if the gateway and its inference service are healthy."""

from __future__ import annotations

import os
import sys
from urllib.error import HTTPError
from urllib.request import ProxyHandler, Request, build_opener

_TIMEOUT_S = 5.0
# An unsampled trace: otherwise health checks would fill the collector.
_UNSAMPLED = {"traceparent": f"00-{1:032x}-{1:016x}-00"}


def main(arguments: list[str]) -> int:
    """Sends one request; returns 1 and prints the reason if the gateway is not healthy."""
    url = arguments[0] if arguments else f"http://127.0.0.1:{os.environ.get('NEUROSCOPE_GATEWAY_PORT', '8080')}"
    try:
        with build_opener(ProxyHandler({})).open(Request(f"{url}/health", headers=_UNSAMPLED), timeout=_TIMEOUT_S):
            return 0
    except HTTPError as error:
        print(f"{url}: {error.code} {error.read(300).decode('utf-8', 'replace')}", file=sys.stderr)
    except OSError as error:
        print(f"{url}: {error}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
