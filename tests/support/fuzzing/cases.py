"""The requests of a run, each made from its number alone, so that one that went wrong can be sent again."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from grpc_health.v1 import health_pb2

from neuroscope.wire import rpc
from neuroscope.wire.rpc import RPCS, Rpc
from tests.support.fuzzing.mutations import Mutator
from tests.support.fuzzing.sensible import Sensible

CALLS: list[Rpc] = [*RPCS.values(), *rpc.rpcs_of(health_pb2.DESCRIPTOR)]  # pyright: ignore[reportArgumentType]
"""Every call of the contract, and of the health service."""
RICH = [
    RPCS[name]
    for name in (
        *("Generate", "Capture", "EstimateCapture", "RunSweep", "Attribute", "Steer"),
        *(
            "LoadDictionary",
            "RegisterHooks",
            "Tokenize",
            "PutTensor",
            "LoadModel",
            "ResumeCapture",
            "GetCapturedTensor",
        ),
    )
]
"""Those whose requests have much in them: every other case is one of these."""


@dataclass(frozen=True)
class Case:
    """One request, spoilt or not."""

    name: str
    rpc: Rpc
    how: str
    """`good`, `field` or `byte`."""
    parts: list[bytes]
    """The messages as they are sent; one, unless the call takes a stream."""

    def __str__(self) -> str:
        shown = [part if len(part) < 400 else part[:400] + b"..." for part in self.parts]
        return f"case {self.name}, {self.rpc.method}, by {self.how}: {shown}"


class Cases:
    """Makes cases: a tenth of them good, most of the others spoilt field by field, the rest byte by byte.

    Args:
        seed: of all draws.
        examples: as `Sensible` takes them; for a call that takes a stream, by its method, the messages of some streams.
    """

    def __init__(self, seed: int, examples: Mapping[str, Sequence[Any]]) -> None:
        self.examples = examples
        self._seed = seed

    def case(self, number: int) -> Case:
        """The case of a number. Calls take turns; the first one of each is good."""
        choice = random.Random(f"{self._seed} {number}")
        turn, calls = number // 2, CALLS if number % 2 else RICH
        call = calls[turn % len(calls)]
        how = "good" if turn < len(calls) else choice.choice(["good", *["field"] * 6, *["byte"] * 3])
        parts = self._good(call, choice)
        if how != "good":
            self._spoil(parts, call, how, choice)
        return Case(f"{number} of seed {self._seed}", call, how, parts)

    def _good(self, call: Rpc, choice: random.Random) -> list[bytes]:
        if call.streams_requests:
            return [message.SerializeToString() for message in choice.choice(self.examples[call.method])]
        return [Sensible(self.examples).message(_descriptor(call), choice).SerializeToString()]

    def _spoil(self, parts: list[bytes], call: Rpc, how: str, choice: random.Random) -> None:
        if call.streams_requests and choice.random() < 0.3:  # in another order, several times, or not at all
            parts[:] = choice.choices(parts, k=choice.randrange(5))
            return
        mutator, index = Mutator(choice), choice.randrange(len(parts))
        if how == "field":
            parts[index] = mutator.by_field(parts[index], _descriptor(call))
        else:
            parts[index] = mutator.by_byte(parts[index], choice.choice(self._good(choice.choice(CALLS), choice)))


def _descriptor(call: Rpc) -> Any:
    """Of the call's request; the stubs know two classes of them."""
    return call.request.DESCRIPTOR
