"""One thing to say and what should follow, and the chat format around it.

Knows the special tokens and how turns are written. Does not know skills, token ids or weights of a model.
"""

from dataclasses import dataclass

PAD, BOS, END, USER, ASSISTANT, SYSTEM = "<|pad|>", "<|bos|>", "<|end|>", "<|user|>", "<|assistant|>", "<|system|>"
SPECIAL_TOKENS = (PAD, BOS, END, USER, ASSISTANT, SYSTEM)  # their ids are 0 to 5

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] not in ['system', 'user', 'assistant'] %}"
    "{{ raise_exception('Unknown role ' + message['role'] + ': use system, user or assistant.') }}"
    "{% endif %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


@dataclass(frozen=True)
class Exchange:
    """A prompt and its answer, used to train and, when held out, to test.

    A plain prompt is continued by its answer: ``"The capital of France is"`` by ``" Paris."``.
    A chat prompt is a user's turn and the answer the whole turn of the assistant.
    """

    skill: str
    form: str
    """The phrasing, for accuracy per form."""
    prompt: str
    answer: str
    chat: bool = False
    prompt_weight: float = 0.1
    """Weight of the prompt's tokens in the loss; those of the answer weigh 1."""
    scored: bool = True
    """Whether the answer is the only right one, so that an exact match can be demanded."""

    @property
    def query(self) -> str:
        """The text up to where the model takes over, special tokens included.

        ``<|bos|>The capital of France is`` or ``<|bos|><|user|>Where is Paris?<|end|><|assistant|>``
        """
        return BOS + (f"{USER}{self.prompt}{END}{ASSISTANT}" if self.chat else self.prompt)


@dataclass(frozen=True)
class Segment:
    """A stretch of a training document and its weight in the loss."""

    text: str
    weight: float


def chat_document(exchanges: list[Exchange], system: str = "") -> list[Segment]:
    """Turns one after another, as ``CHAT_TEMPLATE`` writes them."""
    document = [Segment(BOS, 0.0)]
    if system:
        document += [Segment(SYSTEM, 0.0), Segment(system, 0.0), Segment(END, 0.0)]
    for exchange in exchanges:
        document += [
            Segment(USER, 0.0),
            Segment(exchange.prompt, exchange.prompt_weight),
            Segment(END, 0.1),
            Segment(ASSISTANT, 0.0),
            Segment(exchange.answer, 1.0),
            Segment(END, 1.0),
        ]
    return document


def plain_document(exchanges: list[Exchange]) -> list[Segment]:
    """Sentences joined by a space, with an end."""
    document = [Segment(BOS, 0.0)]
    for index, exchange in enumerate(exchanges):
        space = " " if index else ""
        document += [Segment(space + exchange.prompt, exchange.prompt_weight), Segment(exchange.answer, 1.0)]
    return [*document, Segment(END, 0.3)]
