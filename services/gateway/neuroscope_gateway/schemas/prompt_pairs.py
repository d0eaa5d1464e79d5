"""Pairs of prompts and corruptions."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from neuroscope.interventions.forms import InterventionForm
from neuroscope.v1 import experiment_pb2 as pb
from neuroscope.v1 import intervention_pb2
from neuroscope.vocabulary.strict_model import StrictModel, Text
from neuroscope_gateway.rest_params import rest_params
from neuroscope_gateway.schemas.prompts import Prompt, Seed, prompt_message
from neuroscope_gateway.schemas.request_interventions import RequestInterventions


class SubjectNoise(StrictModel):
    """Gaussian noise on the embeddings of a subject's tokens (Meng et al. 2022)."""

    subject: Annotated[Text, Field(min_length=1)]
    """A text that occurs once in the prompt."""
    seed: Seed = 0
    standard_deviation: Annotated[float, Field(gt=0)] = 3.0
    """In units of the standard deviation of each token's own embedding."""

    def to_message(self) -> pb.SubjectNoise:
        """This object as a message of the contract."""
        return pb.SubjectNoise(subject=self.subject, seed=self.seed, standard_deviation=self.standard_deviation)


class PromptPair(StrictModel):
    """A clean and a corrupted prompt."""

    clean: Prompt
    """The prompt with the behaviour."""
    corrupted: Prompt | None = None
    """The prompt without it. Without a corrupted prompt, edits or noise, the clean run is ablated."""
    corruptions: list[InterventionForm] = Field([], max_length=256)
    """Edits that make the corrupted run; sweeps only."""
    noise: SubjectNoise | None = None
    """Noise on a subject that makes the corrupted run (causal tracing); sweeps only."""

    def to_message(self, path: str) -> pb.PromptPair:
        """This object as a message of the contract.

        Raises:
            MLXIntegrationError: an edit is invalid; `field` is its path.
        """
        return pb.PromptPair(
            clean=prompt_message(self.clean),
            corrupted=None if self.corrupted is None else prompt_message(self.corrupted),
            corruptions=intervention_messages(self.corruptions, f"{path}.corruptions"),
            noise=None if self.noise is None else self.noise.to_message(),
        )


def intervention_messages(forms: list[Any], path: str) -> list[intervention_pb2.Intervention]:
    """Interventions as messages of the contract.

    Raises:
        MLXIntegrationError: one is invalid; `field` is its path.
    """
    with rest_params(lambda field: field.replace("interventions", path, 1)):
        return RequestInterventions(forms).messages
