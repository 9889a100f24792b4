"""Gold rewards: functions of a prompt and the text of a response, in [0, 1], which a rater of the bench knows and a method does not."""

from collections.abc import Callable, Sequence
import math
import re

import numpy as np

WORD = re.compile(r"[A-Za-z']+")
SENTENCE = re.compile(r'(?<=[.!?"])\s+(?=["A-Z])')
GOOD = frozenset(
    """happy glad smiled smile laughed laugh love loved loves fun hug hugged hugs nice kind good great best better beautiful pretty friend
    friends proud safe excited joy enjoyed wonderful thank thanked help helped play played playing warm sweet like liked yummy""".split()
)
BAD = frozenset(
    """sad cry cried crying scared afraid angry mad mean bad hurt lost broken broke fell sorry worried alone lonely dark monster upset tired
    sick dead hate no not never couldn't can't didn't wasn't don't""".split()
)
OPENERS = frozenset(  # capitalised words that begin sentences and are no names
    """The They He She It Once But And One Then So When Suddenly After As There His Her Their In On At From Every You We I What Why How Yes
    No This That If To All Some Mom Mum Dad Mommy Daddy Mama Today Thank Let Can Do My Your""".split()
)
SHARPNESS = 15.0  # of the squash of a share of words: one good word more in 15 is one logit
FEWEST = 8  # words that a response counts at least, so that one word is no whole share
BEST_WORDS, WIDTH = 5.0, 3.0  # of a sentence

Gold = Callable[[str, str], float]


def words(text: str) -> list[str]:
    """The words of a text in lower case."""
    return [word.lower() for word in WORD.findall(text)]


def sentences(text: str) -> list[str]:
    """The sentences of a text that have a word."""
    return [sentence for sentence in SENTENCE.split(text.strip()) if WORD.search(sentence)]


def sentiment(prompt: str, response: str) -> float:
    """The share of good words less that of bad ones, squashed; it does not grow with the length."""
    own = words(response)
    return _squashed(SHARPNESS * (sum(word in GOOD for word in own) - sum(word in BAD for word in own)) / max(len(own), FEWEST) - 1)


def plain(prompt: str, response: str) -> float:
    """1 - squashed share of good words: it pulls against `sentiment`, and both agree on bad words only where these go."""
    own = words(response)
    return _squashed(1 - SHARPNESS * sum(word in GOOD for word in own) / max(len(own), FEWEST))


def brevity(prompt: str, response: str) -> float:
    """How near the mean number of words per sentence is to five; 0 without a word."""
    own = [len(words(sentence)) for sentence in sentences(response)]
    return math.exp(-(((sum(own) / len(own) - BEST_WORDS) / WIDTH) ** 2) / 2) if own else 0.0


def structure(prompt: str, response: str) -> float:
    """Halves for a name of the prompt in the last sentence, and for direct speech whose quotation marks are balanced.

    It asks for no end, so that a short response has no advantage by itself; 0 where the prompt names nobody.
    """
    own, called = sentences(response), names(prompt)
    if not own or not called:
        return 0.0
    quotes = response.count('"')
    return (any(re.search(rf"\b{name}\b", own[-1]) is not None for name in called) + (quotes >= 2 and quotes % 2 == 0)) / 2


def names(prompt: str) -> list[str]:
    """The capitalised words of a text that are no openers of sentences."""
    return [word for word in re.findall(r"\b[A-Z][a-z]+\b", prompt) if word not in OPENERS]


GOLDS: dict[str, Gold] = {"sentiment": sentiment, "brevity": brevity, "structure": structure, "plain": plain}


def scored(name: str, prompts: Sequence[str], responses: Sequence[Sequence[str]]) -> np.ndarray:
    """The gold of every response, float64[n, K]."""
    gold = GOLDS[name]
    return np.array([[gold(prompt, text) for text in own] for prompt, own in zip(prompts, responses, strict=True)])


def _squashed(x: float) -> float:
    return 1 / (1 + math.exp(-x))
