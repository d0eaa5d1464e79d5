"""Pairs of prompts as JSON, and what corrupts one of them."""

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
    """Noise at the embeddings of a subject's tokens (Meng et al. 2022)."""

    subject: Annotated[Text, Field(min_length=1)]
    """A text that the prompt has once."""
    seed: Seed = 0
    standard_deviation: Annotated[float, Field(gt=0)] = 3.0
    """In units of that of each token's own embedding."""

    def to_message(self) -> pb.SubjectNoise:
        """As the contract carries it."""
        return pb.SubjectNoise(subject=self.subject, seed=self.seed, standard_deviation=self.standard_deviation)


class PromptPair(StrictModel):
    """Two prompts that differ in what the metric asks for."""

    clean: Prompt
    """The prompt with the behaviour."""
    corrupted: Prompt | None = None
    """The prompt without it; without one the clean run is ablated, unless edits or noise corrupt it."""
    corruptions: list[InterventionForm] = Field([], max_length=256)
    """Edits that make the corrupted run; of sweeps alone, and so is noise."""
    noise: SubjectNoise | None = None
    """Noise at the embeddings of a subject: causal tracing."""

    def to_message(self, path: str) -> pb.PromptPair:
        """As the contract carries it.

        Raises:
            MLXIntegrationError: an edit cannot be meant; names it below the path.
        """
        return pb.PromptPair(
            clean=prompt_message(self.clean),
            corrupted=None if self.corrupted is None else prompt_message(self.corrupted),
            corruptions=intervention_messages(self.corruptions, f"{path}.corruptions"),
            noise=None if self.noise is None else self.noise.to_message(),
        )


def intervention_messages(forms: list[Any], path: str) -> list[intervention_pb2.Intervention]:
    """Edits as the contract carries them.

    Raises:
        MLXIntegrationError: one cannot be meant; names it below the path.
    """
    with rest_params(lambda field: field.replace("interventions", path, 1)):
        return RequestInterventions(forms).messages
