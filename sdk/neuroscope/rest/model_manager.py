"""Models of the service behind a gateway."""

from __future__ import annotations

from os import PathLike, fspath
from typing import Any
from urllib.parse import quote

from neuroscope.rest.architecture import ModelArchitecture, ModelLoadResult
from neuroscope.rest.gateway import GatewayConnection

MODELS = "/v1/models"
LOAD = f"{MODELS}/load"


class ModelManager:
    """Loads, describes and frees models.

    Args:
        gateway: the connection.

    Attributes:
        current: the model that was loaded last through this object; empty: the service's default, which is the one
            that was loaded first.
    """

    def __init__(self, gateway: GatewayConnection) -> None:
        self._gateway = gateway
        self.current = ""

    def load(
        self,
        model_path: str | PathLike[str],
        *,
        model_id: str = "",
        revision: str = "",
        adapter_path: str | PathLike[str] = "",
        dtype: str = "",
        dequantize: bool | None = None,
    ) -> ModelLoadResult:
        """Loads a model, waits until it is ready, and makes it the current one. One that is loaded answers at once.

        Args:
            model_path: a folder as the inference service sees it, or a Hugging Face id.
            model_id: name for later requests; empty: the last part of the path.
            revision: branch, tag or commit on the hub.
            adapter_path: folder of a LoRA adapter.
            dtype: float32, float16 or bfloat16; empty: that of the files.
            dequantize: whether quantised weights become plain ones; None: as the service finds best.

        Raises:
            ModelNotFoundError, ModelCorruptError, ModelUnsupportedError, IdTakenError, ResourceExhaustedError
        """
        wanted = {"model_id": model_id, "revision": revision, "adapter_path": fspath(adapter_path), "dtype": dtype}
        body: dict[str, Any] = {"model_path": fspath(model_path)}
        body |= {name: value for name, value in wanted.items() if value}
        if dequantize is not None:
            body["dequantize"] = dequantize
        answer = self._gateway.request("POST", LOAD, body, wait_forever=True)
        self.current = str(answer["model_id"])
        return ModelLoadResult(
            model_id=self.current,
            status=answer["status"],
            supports_activations=answer["supports_activations"],
            architecture=self.describe(self.current),
        )

    def list(self) -> list[ModelArchitecture]:
        """The loaded models, without their points."""
        answer = self._gateway.request("GET", MODELS)
        return [ModelArchitecture.from_api_format(model) for model in answer["data"]]

    def describe(self, model_id: str) -> ModelArchitecture:
        """A loaded model with every point that can be hooked, and why the others cannot.

        Raises:
            ModelNotFoundError: no model has that name.
        """
        return ModelArchitecture.from_api_format(self._gateway.request("GET", f"{MODELS}/{quote(model_id)}"))

    def unload(self, model_id: str) -> None:
        """Frees a loaded model. If it is the current one, requests go to the service's default from now on.

        Raises:
            ModelNotFoundError: no model has that name.
        """
        self._gateway.request("DELETE", f"{MODELS}/{quote(model_id)}", idempotent=False)
        if self.current == model_id:
            self.current = ""
