"""The roles of heads: definitions of their scores, thresholds of labels, and causal tests.

An attention pattern is not evidence of an effect (Jain & Wallace 2019): later components may ignore the head's output.
A label is therefore confirmed only if ablating the head changes the role's metric.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from neuroscope.results.labels import role_name
from neuroscope.v1 import attention_pb2 as pb


class RoleMetric(StrEnum):
    """The metrics of causal tests."""

    REPETITION = "cross-entropy of the second block, whose tokens an induction circuit predicts"
    REPEATED_OUTPUT = "KL divergence of the predictions in the second block from those of the whole model"
    OUTPUT = "KL divergence of the predictions in the first block from those of the whole model"
    LOGIT_DIFFERENCE = "logit of the answer less that of the other name, at the end of named pairs"


@dataclass(frozen=True, slots=True)
class Role:
    """A role."""

    role: pb.HeadRole.ValueType
    threshold: float
    """Minimum score of a label."""
    definition: str
    """Definition of the score, with its source."""
    metric: RoleMetric
    """The metric of the causal test."""
    compares_with_others: bool
    """Whether the effect must also exceed the effects of heads without the role. False for metrics of the whole
    output, which every head changes."""
    uses_weights: bool = False
    """Scored by weights instead of patterns."""
    zero_ablated: bool = False
    """Zero-ablated: mean ablation does not change a constant output."""

    path_receiver: str = ""
    """For roles of named pairs: the receiver of the patched path."""

    @property
    def name(self) -> str:
        """The name, such as previous_token."""
        return role_name(self.role)

    @property
    def array_name(self) -> str:
        """The name of its array of scores."""
        return f"{self.name}_score"

    @property
    def causal_test(self) -> str:
        """The causal test in words."""
        if self.path_receiver:
            return (
                f"the head's output as {self.path_receiver} read it is replaced by that of the corrupted run; "
                f"the loss of the {self.metric} must be beyond noise and the effects of heads without the role"
            )
        how = "zeros" if self.zero_ablated else "its mean at each position of other random sequences"
        how += " in the second block" if self.metric is RoleMetric.REPEATED_OUTPUT else ""
        others = " and beyond the effects of heads without the role" if self.compares_with_others else ""
        return f"the head's output is replaced by {how}; the change of the {self.metric} must be beyond noise{others}"


_COPYING_DEFINITION = (
    "the sum of the eigenvalues of the head's OV circuit from token to token, W_E W_V W_O W_U with the gains of both "
    "norms, over the sum of their magnitudes"
)
_ROLES = (
    Role(
        pb.HEAD_ROLE_PREVIOUS_TOKEN,
        0.4,
        "mean weight on the token before, over all queries but the first (Voita et al. 2019, arXiv:1905.09418; "
        "Olsson et al. 2022, arXiv:2209.11895)",
        RoleMetric.REPETITION,
        compares_with_others=True,
    ),
    Role(
        pb.HEAD_ROLE_DUPLICATE_TOKEN,
        0.4,
        "mean weight on the same token in the first block, over queries in the second one (Wang et al. 2022, "
        "arXiv:2211.00593)",
        RoleMetric.REPEATED_OUTPUT,
        compares_with_others=False,
    ),
    Role(
        pb.HEAD_ROLE_INDUCTION,
        0.4,
        "mean weight on the token behind the same token in the first block, over queries in the second one: prefix "
        "matching (Olsson et al. 2022, arXiv:2209.11895)",
        RoleMetric.REPETITION,
        compares_with_others=True,
    ),
    Role(
        pb.HEAD_ROLE_FIRST_TOKEN_SINK,
        0.3,
        "mean weight on the first token, over all other queries (Gu et al. 2024, arXiv:2410.10781, whose threshold "
        "this is; Xiao et al. 2023, arXiv:2309.17453)",
        RoleMetric.OUTPUT,
        compares_with_others=False,
        zero_ablated=True,
    ),
    Role(
        pb.HEAD_ROLE_POSITIONAL,
        0.9,
        "share of queries whose largest weight is at one and the same distance of 0 or 2 to 16 tokens, a quarter of "
        "the sequence at most, where the query has so many before it; the best distance (Voita et al. 2019, "
        "arXiv:1905.09418, whose threshold this is, and who count distances of 1)",
        RoleMetric.OUTPUT,
        compares_with_others=False,
    ),
    Role(
        pb.HEAD_ROLE_UNIFORM,
        0.95,
        "mean entropy of the weights over that of equal weights, over all queries but the first (the broad heads of "
        "Clark et al. 2019, arXiv:1906.04341)",
        RoleMetric.OUTPUT,
        compares_with_others=False,
    ),
    Role(
        pb.HEAD_ROLE_COPYING,
        0.5,
        f"{_COPYING_DEFINITION} (Elhage et al. 2021, A Mathematical Framework for Transformer Circuits); a label "
        "needs, too, that of half of 256 random tokens it makes the own logit the largest of 4,096 (Wang et al. 2022)",
        RoleMetric.OUTPUT,
        compares_with_others=False,
        uses_weights=True,
    ),
    Role(
        pb.HEAD_ROLE_SUPPRESSION,
        0.5,
        f"minus {_COPYING_DEFINITION} (McDougall et al. 2023, arXiv:2310.04625); a label needs, too, that of half of "
        "256 random tokens it makes the own logit the smallest of 4,096",
        RoleMetric.OUTPUT,
        compares_with_others=False,
        uses_weights=True,
    ),
    Role(
        pb.HEAD_ROLE_NAME_MOVER,
        0.3,
        "mean weight of the last token on the name that is the answer, times the share of pairs in which what the head "
        "makes of that name has it among its five likeliest tokens (Wang et al. 2022, arXiv:2211.00593)",
        RoleMetric.LOGIT_DIFFERENCE,
        compares_with_others=True,
        path_receiver="the logits",
    ),
    Role(
        pb.HEAD_ROLE_S_INHIBITION,
        0.3,
        "mean weight of the last token on the second occurrence of the name that came twice (Wang et al. 2022, "
        "arXiv:2211.00593)",
        RoleMetric.LOGIT_DIFFERENCE,
        compares_with_others=True,
        path_receiver="the queries of confirmed name movers at the end",
    ),
)
ROLES = {role.role: role for role in _ROLES}
