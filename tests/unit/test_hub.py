"""A repository's revision reaches the hub, and what the hub does not have is named.

python -m pytest tests/unit/test_hub.py
"""

from pathlib import Path
from typing import Any

import pytest
from httpx import Request, Response
from huggingface_hub.errors import RevisionNotFoundError

from neuroscope.errors import ModelNotFoundError
from neuroscope_inference import hub


async def located(model_path: str, revision: str) -> Any:
    return [event async for event in hub.locate(model_path, revision)][-1]


@pytest.mark.parametrize(("revision", "asked"), [("", None), ("main", "main"), ("v1.2", "v1.2"), ("a1b2c3", "a1b2c3")])
async def test_the_revision_reaches_the_hub(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, revision: str, asked: str | None
) -> None:
    seen: dict[str, Any] = {}

    def download(repository: str, **options: Any) -> str:
        seen.update(options, repository=repository)
        return str(tmp_path)

    monkeypatch.setattr(hub, "snapshot_download", download)
    assert await located("someone/model", revision) == tmp_path
    assert (seen["repository"], seen["revision"]) == ("someone/model", asked)


async def test_a_revision_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def download(repository: str, **_: Any) -> str:
        response: Any = Response(404, request=Request("GET", f"https://example.org/{repository}"))
        raise RevisionNotFoundError("404", response=response)

    monkeypatch.setattr(hub, "snapshot_download", download)
    with pytest.raises(ModelNotFoundError, match="no revision 'v9'") as caught:
        await located("someone/model", "v9")
    assert caught.value.field == "revision"


async def test_a_folder_is_not_asked_of_the_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(hub, "snapshot_download", pytest.fail)
    assert await located(str(tmp_path), "main") == tmp_path
