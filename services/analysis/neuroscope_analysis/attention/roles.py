"""The roles of heads: what each score is, whose definition it follows, from where on it is a label, and how that is
tested.

A pattern is no cause. A head that attends to the token before may write what nobody reads (Jain & Wallace 2019), so a
label is given as confirmed only where ablating the head changes the role's metric.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from neuroscope.results.labels import role_name
from neuroscope.v1 import attention_pb2 as pb


class Measure(StrEnum):
    """What an ablated head changes."""

    REPETITION = "cross-entropy of the second block, whose tokens an induction circuit predicts"
    REPEATED_OUTPUT = "KL divergence of the predictions in the second block from those of the whole model"
    OUTPUT = "KL divergence of the predictions at all positions from those of the whole model"
    LOGIT_DIFFERENCE = "logit of the answer less that of the other name, at the end of named pairs"


@dataclass(frozen=True, slots=True)
class Role:
    """A role."""

    role: pb.HeadRole.ValueType
    threshold: float
    """Score from which a head gets the label."""
    definition: str
    """What the score is, and its source."""
    measure: Measure
    """The metric of the causal test."""
    against_others: bool
    """Whether the effect must also stand out from those of heads without the role: where the metric is the role's own.
    Any head that does anything changes the output."""
    by_weights: bool = False
    """Scored by the head's weights and not by its patterns."""
    is_zeroed: bool = False
    """Ablated by zeros in place of the mean over other sequences, which would leave a constant output as it is."""

    path_to: str = ""
    """Of a role that named pairs tell: who reads the path that is patched."""

    @property
    def name(self) -> str:
        """Such as previous_token."""
        return role_name(self.role)

    @property
    def array(self) -> str:
        """The name of its scores among the arrays."""
        return f"{self.name}_score"

    @property
    def test(self) -> str:
        """The causal test in words."""
        if self.path_to:
            return (
                f"what the head writes for {self.path_to} alone is replaced by what it writes in the corrupted run; "
                f"the loss of the {self.measure} must be beyond noise and the effects of heads without the role"
            )
        how = "zeros" if self.is_zeroed else "its mean at each position of other random sequences"
        others = " and beyond the effects of heads without the role" if self.against_others else ""
        return f"the head's output is replaced by {how}; the change of the {self.measure} must be beyond noise{others}"


_EIGENVALUES = (
    "the sum of the eigenvalues of the head's OV circuit from token to token, W_E W_V W_O W_U with the gains of both "
    "norms, over the sum of their magnitudes"
)
_ALL = (
    Role(
        pb.HEAD_ROLE_PREVIOUS_TOKEN,
        0.4,
        "mean weight on the token before, over all queries but the first (Voita et al. 2019, arXiv:1905.09418; "
        "Olsson et al. 2022, arXiv:2209.11895)",
        Measure.REPETITION,
        against_others=True,
    ),
    Role(
        pb.HEAD_ROLE_DUPLICATE_TOKEN,
        0.4,
        "mean weight on the same token in the first block, over queries in the second one (Wang et al. 2022, "
        "arXiv:2211.00593)",
        Measure.REPEATED_OUTPUT,
        against_others=False,
    ),
    Role(
        pb.HEAD_ROLE_INDUCTION,
        0.4,
        "mean weight on the token behind the same token in the first block, over queries in the second one: prefix "
        "matching (Olsson et al. 2022, arXiv:2209.11895)",
        Measure.REPETITION,
        against_others=True,
    ),
    Role(
        pb.HEAD_ROLE_FIRST_TOKEN_SINK,
        0.3,
        "mean weight on the first token, over all other queries (Gu et al. 2024, arXiv:2410.10781, whose threshold "
        "this is; Xiao et al. 2023, arXiv:2309.17453)",
        Measure.OUTPUT,
        against_others=False,
        is_zeroed=True,
    ),
    Role(
        pb.HEAD_ROLE_POSITIONAL,
        0.9,
        "share of queries whose largest weight is at one and the same distance of 0 or 2 to 16 tokens, a quarter of "
        "the sequence at most, where the query has so many before it; the best distance (Voita et al. 2019, "
        "arXiv:1905.09418, whose threshold this is, and who count distances of 1)",
        Measure.OUTPUT,
        against_others=False,
    ),
    Role(
        pb.HEAD_ROLE_UNIFORM,
        0.95,
        "mean entropy of the weights over that of equal weights, over all queries but the first (the broad heads of "
        "Clark et al. 2019, arXiv:1906.04341)",
        Measure.OUTPUT,
        against_others=False,
    ),
    Role(
        pb.HEAD_ROLE_COPYING,
        0.5,
        f"{_EIGENVALUES} (Elhage et al. 2021, A Mathematical Framework for Transformer Circuits)",
        Measure.OUTPUT,
        against_others=False,
        by_weights=True,
    ),
    Role(
        pb.HEAD_ROLE_SUPPRESSION,
        0.5,
        f"minus {_EIGENVALUES} (McDougall et al. 2023, arXiv:2310.04625)",
        Measure.OUTPUT,
        against_others=False,
        by_weights=True,
    ),
    Role(
        pb.HEAD_ROLE_NAME_MOVER,
        0.3,
        "mean weight of the last token on the name that is the answer, times the share of pairs in which what the head "
        "makes of that name has it among its five likeliest tokens (Wang et al. 2022, arXiv:2211.00593)",
        Measure.LOGIT_DIFFERENCE,
        against_others=True,
        path_to="the logits",
    ),
    Role(
        pb.HEAD_ROLE_S_INHIBITION,
        0.3,
        "mean weight of the last token on the second occurrence of the name that came twice (Wang et al. 2022, "
        "arXiv:2211.00593)",
        Measure.LOGIT_DIFFERENCE,
        against_others=True,
        path_to="the queries of confirmed name movers at the end",
    ),
)
ROLES = {role.role: role for role in _ALL}
