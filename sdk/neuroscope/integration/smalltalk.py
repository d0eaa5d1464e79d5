"""A Smalltalk class that calls the gateway, as text to file in."""

from __future__ import annotations

from importlib import resources

from neuroscope.integration.client import LMStudioNeuroScopeClient
from neuroscope.rest.gateway import check_url

_TEMPLATE = "lm_studio_rest_client.st"
_PLACE = "{{base_url}}"


def generate_neuroscope_smalltalk_interface(client: LMStudioNeuroScopeClient | str) -> str:
    """The class LMStudioRESTClient in chunk format, which Squeak, Cuis, Pharo and Amber file in.

    How HTTP and JSON are done differs between dialects, so the class asks a block for them (`requestBlock:`); its
    comment says what the block is given and what it gives.

    Args:
        client: whose gateway the class calls; or the gateway's URL.

    Raises:
        InvalidRequestError: the URL is none of HTTP.
    """
    base_url = check_url(client) if isinstance(client, str) else client.base_url
    template = resources.files(__package__ or "").joinpath(_TEMPLATE).read_text(encoding="utf-8")
    return template.replace(_PLACE, base_url.replace("'", "''").replace("!", "!!"))
