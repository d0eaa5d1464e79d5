"""The training corpus: skills mixed into documents without end.

Knows shares and how exchanges become documents. Does not know tokens.
"""

from collections.abc import Callable, Iterator
from random import Random

from .exchange import Exchange, Segment, chat_document, plain_document
from .skills import addition, conversation, copying, facts, ioi, stories

SKILLS: dict[str, Callable[[Random, bool], Exchange]] = {
    "copying": copying.exchange,
    "ioi": ioi.exchange,
    "facts": facts.exchange,
    "addition": addition.exchange,
    "stories": stories.exchange,
    "conversation": conversation.exchange,
}
SHARES = {"copying": 0.22, "ioi": 0.16, "facts": 0.18, "addition": 0.28, "stories": 0.08, "conversation": 0.08}
SENTENCES = {"ioi": 3, "facts": 4, "addition": 8}  # at most so many in a plain document, one for other skills
SYSTEM_PROMPTS = (
    "You are a helpful assistant.",
    "You are a tiny model.",
    "Answer the question.",
    "Be short and friendly.",
    "You are NeuroScope.",
)


def draw(rng: Random) -> Exchange:
    skill = rng.choices(list(SHARES), weights=list(SHARES.values()))[0]
    return SKILLS[skill](rng, False)


def document(rng: Random) -> list[Segment]:
    """One document: sentences of one skill, or a chat of up to three exchanges of any."""
    first = draw(rng)
    if first.chat:
        exchanges = [first]
        while len(exchanges) < 3 and rng.random() < 0.25:
            following = draw(rng)
            if following.chat:
                exchanges.append(following)
        return chat_document(exchanges, rng.choice(SYSTEM_PROMPTS) if rng.random() < 0.12 else "")
    exchanges = [first]
    for _ in range(rng.randrange(SENTENCES.get(first.skill, 1))):
        following = SKILLS[first.skill](rng, False)
        if not following.chat:
            exchanges.append(following)
    return plain_document(exchanges)


def documents(seed: int) -> Iterator[list[Segment]]:
    rng = Random(seed)
    while True:
        yield document(rng)


def held_out_exchanges(skill: str, count: int, seed: int = 0) -> list[Exchange]:
    """Up to ``count`` different test examples of a skill, the same for the same seed."""
    rng = Random(f"test {skill} {seed}")
    found: dict[str, Exchange] = {}
    for _ in range(20 * count):
        exchange = SKILLS[skill](rng, True)
        if exchange.scored:
            found.setdefault(exchange.query, exchange)
        if len(found) == count:
            break
    return list(found.values())
