"""Small talk, and saying so when a question is outside the closed world.

Small talk is a fixed list, all of it taught. Questions without an answer are built from random and invented words.
"""

from random import Random

from ..exchange import Exchange
from ..lexicon import ADJECTIVES, ANIMALS, CONTENT_WORDS, NAMES, OBJECTS, PLACES
from .copying import invented_word

ABILITIES = "I can name capitals, add numbers up to 99, repeat words and tell short stories."
UNKNOWN = f"Sorry, I do not know that. {ABILITIES}"
REPLIES = {
    "Hello! How can I help you?": ("Hello", "Hello there", "Hi", "Hi there", "Hey", "Good morning", "Good evening"),
    "I am a tiny model, trained to be looked into. " + ABILITIES: ("Who are you", "What are you", "What is your name"),
    ABILITIES: ("What can you do", "Help", "Can you help me", "What do you know"),
    "I am fine, thank you. How can I help you?": ("How are you", "How are you today", "How is it going"),
    "You are welcome.": ("Thank you", "Thanks", "Thanks a lot", "Thank you very much"),
    "Goodbye!": ("Goodbye", "Bye", "Good night", "See you later"),
}
ANSWERS = {prompt: reply for reply, prompts in REPLIES.items() for prompt in prompts}
UNANSWERABLE = (
    "What is the capital of {invented}?",
    "Where is {invented}?",
    "Who is {name}?",
    "What is a {object}?",
    "Why is the {animal} {adjective}?",
    "How do I get to the {place}?",
    "What is the meaning of {word}?",
    "Can you {invented} the {object}?",
    "Do you like the {adjective} {animal}?",
    "When did {name} go to the {place}?",
    "{invented} {invented} {invented}?",
    "What do you think of {word} and {invented}?",
    "How {invented} is the {invented}?",
    "{name} {invented} {word}.",
)
ENDINGS = ("", "!", ".", "?")


def greeting(prompt: str, ending: str, lower: bool = False) -> Exchange:
    spoken = (prompt.lower() if lower else prompt) + ending
    return Exchange("conversation", "small talk", spoken, ANSWERS[prompt], chat=True)


def all_small_talk() -> list[Exchange]:
    return [greeting(prompt, ending, lower) for prompt in ANSWERS for ending in ENDINGS for lower in (False, True)]


def small_talk(rng: Random) -> Exchange:
    return greeting(rng.choice(list(ANSWERS)), rng.choice(ENDINGS), lower=rng.random() < 0.3)


def unanswerable(rng: Random) -> Exchange:
    prompt = rng.choice(UNANSWERABLE)
    while "{invented}" in prompt:
        prompt = prompt.replace("{invented}", invented_word(rng), 1)
    if prompt.startswith(("What is the capital", "Where is")):
        prompt = prompt[:-1].rsplit(" ", 1)[0] + " " + invented_word(rng).capitalize() + "land?"
    prompt = prompt.format(
        name=rng.choice(NAMES),
        object=rng.choice(OBJECTS),
        animal=rng.choice(ANIMALS),
        adjective=rng.choice(ADJECTIVES),
        place=rng.choice(PLACES),
        word=rng.choice(CONTENT_WORDS),
    )
    return Exchange("conversation", "unknown", prompt, UNKNOWN, chat=True, prompt_weight=0.0)


def exchange(rng: Random, held_out: bool = False) -> Exchange:
    """Held out are only questions without an answer, which never come twice."""
    return unanswerable(rng) if held_out or rng.random() < 0.5 else small_talk(rng)
