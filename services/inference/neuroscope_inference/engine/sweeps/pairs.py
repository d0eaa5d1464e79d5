"""The pairs of prompts of a request, as the model reads them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from neuroscope.errors import InvalidRequestError
from neuroscope.v1 import experiment_pb2 as pb
from neuroscope.v1 import inference_pb2
from neuroscope_inference.engine.model import LoadedModel, TokenizedPrompt
from neuroscope_inference.engine.sweeps.corruption import subject_noise
from neuroscope_inference.engine.sweeps.metrics import Metric
from neuroscope_inference.engine.sweeps.pair import CLEAN, CORRUPTED, Corruption, Pair


@dataclass(frozen=True, slots=True)
class TokenizedPairs:
    """Pairs, and what looks wrong with their prompts."""

    pairs: list[Pair]
    warnings: list[str]


def parse_pairs(
    model: LoadedModel,
    messages: Sequence[pb.PromptPair],
    references: Sequence[inference_pb2.Prompt],
    edited_run: pb.SweptRun.ValueType,
    most: int,
) -> TokenizedPairs:
    """The pairs of a request.

    Args:
        model: reads them.
        messages: the pairs.
        references: prompts that stand for what is usual.
        edited_run: the run that is edited; unspecified: the corrupted one, or the clean one where there is no other.
        most: so many pairs are allowed, and so many references.

    Raises:
        InvalidRequestError, ContextLengthError: name the prompt.
    """
    if not messages:
        raise InvalidRequestError("there is no pair of prompts", field="pairs")
    for field, prompts in (("pairs", messages), ("references", references)):
        if len(prompts) > most:
            raise InvalidRequestError(f"at most {most} {field} a request (the setting max_prompts)", field=field)
    read: list[TokenizedPrompt] = []

    def ids(prompt: inference_pb2.Prompt, field: str) -> Sequence[int]:
        read.append(model.tokenize(prompt, field))
        return read[-1].ids

    usual = [ids(prompt, f"references[{index}]") for index, prompt in enumerate(references)]
    pairs: list[Pair] = []
    for index, pair in enumerate(messages):
        field = f"pairs[{index}]"
        if not pair.HasField("clean"):
            raise InvalidRequestError("the clean prompt is missing", field=f"{field}.clean")
        clean = ids(pair.clean, f"{field}.clean")
        corrupted = ids(pair.corrupted, f"{field}.corrupted") if pair.HasField("corrupted") else None
        if corrupted is None and (pair.corruptions or pair.HasField("noise")):
            corrupted = clean
        corruptions = [
            Corruption(edit, f"{field}.corruptions[{number}]") for number, edit in enumerate(pair.corruptions)
        ]
        if pair.HasField("noise") and corrupted is not None:
            corruptions.append(
                Corruption(subject_noise(pair.noise, model, corrupted, f"{field}.noise"), f"{field}.noise")
            )
        row = _edited_row(edited_run, corrupted, field)
        pairs.append(Pair(index, clean, corrupted, usual, row, corruptions))
    if len({pair.edited_row for pair in pairs}) > 1:
        raise InvalidRequestError(
            "some pairs have a corrupted prompt and some have not: say which run is edited", field="edited_run"
        )
    return TokenizedPairs(pairs, [warning for prompt in read for warning in prompt.warnings])


def pair_tokens(pair: Pair, metric: Metric) -> pb.PairTokens:
    """A pair as a plan says it."""
    found = pb.PairTokens(clean=inference_pb2.TokenIds(ids=pair.clean))
    if pair.corrupted is not None:
        found.corrupted.ids.extend(pair.corrupted)
    if metric.answers:
        found.answer_id = metric.answers[pair.index]
    if metric.others:
        found.other_id = metric.others[pair.index]
    return found


def _edited_row(edited_run: pb.SweptRun.ValueType, corrupted: Sequence[int] | None, field: str) -> int:
    match edited_run:
        case pb.SWEPT_RUN_UNSPECIFIED:
            return CLEAN if corrupted is None else CORRUPTED
        case pb.SWEPT_RUN_CLEAN:
            return CLEAN
        case pb.SWEPT_RUN_CORRUPTED:
            if corrupted is None:
                raise InvalidRequestError(
                    "there is no corrupted prompt whose run could be edited", field=f"{field}.corrupted"
                )
            return CORRUPTED
        case unknown:
            raise InvalidRequestError(f"the contract has no run {unknown}", field="edited_run")
