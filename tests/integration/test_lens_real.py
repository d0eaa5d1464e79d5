"""neuroscope.activations.lens against the logits of MLX itself, for every family that the lens claims."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from neuroscope import Client
from neuroscope.activations.lens import MODEL_TYPES, LogitLens
from tests.support.random_models import FAMILIES, make_model
from tests.support.services import Service


@pytest.fixture(scope="module")
def client(inference: Service) -> Iterator[Client]:
    with Client(inference.target) as client:
        yield client


@pytest.mark.parametrize("family", sorted(set(MODEL_TYPES) & set(FAMILIES)))
def test_the_last_layers_lens_is_what_the_model_says(client: Client, family: str, tmp_path: Path):
    folder = make_model(family, tmp_path / family)
    model_id = client.load_model(folder, model_id=f"lens-{family}").model_id
    cache = client.capture([5, 6, 7, 8], [("resid_post", -1), "logits"], model_id=model_id)
    client.unload_model(model_id)
    expected = cache["logits"].astype(np.float32)
    logits = LogitLens.from_folder(folder).logits(cache["resid_post"])
    assert np.abs(logits - expected).max() / np.abs(expected).max() < 1e-5
