"""Mean ablation of the attention and the MLP of each layer.

The output is replaced at every position by its mean over the reference prompts and their positions. The effect is the
metric of the unablated run minus that of the ablated one.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from neuroscope.experiments import Metric, log_prob, logit_diff, mean
from neuroscope.v1 import inference_pb2
from neuroscope_analysis.remote_model import RemoteModel
from neuroscope_analysis.residual.activation_chunks import Floats
from neuroscope_analysis.residual.attribution import LogitTarget

EFFECTS = {"attn_out": "ablated_attention", "mlp_out": "ablated_mlp"}
"""Names of arrays by ablated component."""


def answer_metric(targets: Sequence[LogitTarget], position: int) -> Metric:
    """The logit difference of two tokens, or the log-probability of one.

    Args:
        targets: the target of each prompt.
        position: the position of the request.
    """
    answers = [each.answer for each in targets]
    others = [each.other for each in targets if each.other is not None]
    metric = logit_diff(answers, others) if others else log_prob(answers)
    return metric.at(position)


async def ablation_effects(
    model: RemoteModel,
    prompts: Sequence[Sequence[int]],
    references: Sequence[inference_pb2.Prompt],
    targets: Sequence[LogitTarget],
    position: int,
) -> tuple[list[dict[str, Floats]], list[float]]:
    """Effects by array name (layer,) for each prompt, NaN for missing components; and the metric of each prompt.

    Args:
        model: the model.
        prompts: token ids.
        references: prompts for the mean; empty: `prompts`.
        targets: the target of each prompt.
        position: the position of the request.
    """
    count = model.info.model.num_layers
    layers = {component: model.layers(component) for component in EFFECTS}
    ablation = model.client.ablate([list(ids) for ids in prompts], value=mean(), model_id=model.model_id)
    ablation = ablation.references([*references] or [list(ids) for ids in prompts])
    for component, of_component in layers.items():
        if of_component:
            ablation = ablation.site(component, layers=of_component)
    result = await model.sweep(ablation.scored_by(answer_metric(targets, position)), "ablating layers")
    found = [{name: np.full(count, np.nan, np.float32) for name in EFFECTS.values()} for _ in prompts]
    plain = np.zeros(len(prompts), np.float32)
    for component, of_component in layers.items():
        if not of_component:
            continue
        scores = result[component]
        plain = scores.unedited
        changes = -scores.effects().values.reshape(len(prompts), -1)
        for prompt, values in enumerate(changes):
            found[prompt][EFFECTS[component]][of_component] = values
    return found, plain.tolist()
