"""Experiments: many edited runs of a few prompts, each scored by one number, computed by the service.

    from neuroscope import Client
    from neuroscope.experiments import logit_diff

    with Client() as client:
        patching = client.patch(clean, corrupted).residual().heads()
        result = patching.run(metric=logit_diff(" Mary", " John"), progress=True)
        result["head_output"].normalised().plot("heads.png")

Activation patching replaces activations of one run of a pair with those of the other, for every position of the
residual stream, every head, ... (Vig et al. 2020; Meng et al. 2022). `Client.ablate` replaces them with zeros, means or
noise. An `Experiment` describes all of it; it can be stored as JSON and run again. `Client.attribute` approximates the
effects by gradients instead of running every patch.
"""

from neuroscope.experiments.attribution import Attribution
from neuroscope.experiments.attribution_result import AttributionResult
from neuroscope.experiments.criteria import Criterion, contains, criterion, function_call, is_json, refusal, regex
from neuroscope.experiments.experiment import Experiment
from neuroscope.experiments.grids import EACH, Together, mean, other_run, resample, together
from neuroscope.experiments.metrics import (
    Metric,
    cross_entropy,
    kl_divergence,
    log_prob,
    logit_diff,
    prob,
    projection,
    rank,
)
from neuroscope.experiments.patching import Patching
from neuroscope.experiments.python_metrics import python_metric
from neuroscope.experiments.scores import Scores, Texts
from neuroscope.experiments.sweep_result import SweepResult

__all__ = [
    "EACH",
    "Attribution",
    "AttributionResult",
    "Criterion",
    "Experiment",
    "Metric",
    "Patching",
    "Scores",
    "SweepResult",
    "Texts",
    "Together",
    "contains",
    "criterion",
    "cross_entropy",
    "function_call",
    "is_json",
    "kl_divergence",
    "log_prob",
    "logit_diff",
    "mean",
    "other_run",
    "prob",
    "projection",
    "python_metric",
    "rank",
    "refusal",
    "regex",
    "resample",
    "together",
]
