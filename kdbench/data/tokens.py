"""Texts -> tokens: words of the training texts, or the tokenizer of an encoder of Hugging Face's library.

Tokens are int32 (N, 1, length, 1): numbers from 1 on, padded with 0 at their end.
"""

from __future__ import annotations

import html
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from types import ModuleType

import numpy as np

from kdbench.data.packed import TOKENS
from kdbench.types import KdbenchError

PADDING, UNKNOWN, FIRST = 0, 1, 2
"""Tokens: none, a word outside of the vocabulary, and the first word of that."""
WORD = re.compile(r"(?P<url>https?://\S+|www\.\S+)|(?P<user>@\w+)|(?P<number>\d[\d.,:]*)|(?P<word>\w+(?:['’]\w+)*)")


def words(text: str) -> list[str]:
    """In small letters; links, names of users and numbers are <url>, <user> and <number>, all other signs are left
    out."""
    found = WORD.finditer(html.unescape(text).lower())
    return [match[0] if match.lastgroup == "word" else f"<{match.lastgroup}>" for match in found]


def vocabulary_of(texts: Iterable[list[str]], size: int) -> dict[str, int]:
    """The token of each of the most frequent words, at most `size` of them; words that are as frequent go by name."""
    counts = Counter(word for text in texts for word in text)
    ordered = sorted(counts, key=lambda word: (-counts[word], word))[:size]
    return {word: FIRST + rank for rank, word in enumerate(ordered)}


def tokens_of_words(texts: Sequence[list[str]], known: dict[str, int], length: int) -> np.ndarray:
    """A longer text loses its end; one without any word is an unknown word."""
    return _padded([[known.get(word, UNKNOWN) for word in text[:length]] or [UNKNOWN] for text in texts], length)


def published_tokens(texts: dict[str, list[str]], name: str, length: int) -> tuple[dict[str, np.ndarray], int]:
    """Tokens of each split by the tokenizer of that name, of the hub or in a folder, each its number there plus one;
    and how many there are, the padding among them. A longer text loses its end as that tokenizer has it.

    Raises KdbenchError where the library or the tokenizer is not there.
    """
    try:
        tokenizer = library().AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise KdbenchError(f"tokenizer: cannot load {name}: {str(error).splitlines()[0]}") from error
    found = {}
    for split, some in texts.items():
        numbers = tokenizer([html.unescape(text) for text in some], truncation=True, max_length=length)["input_ids"]
        found[split] = _padded([[1 + number for number in text] for text in numbers], length)
    return found, 1 + len(tokenizer)


def library() -> ModuleType:
    """Hugging Face's transformers. Raises KdbenchError that says how to install it."""
    import kdbench.torchvision_ops  # noqa: F401  (before torchvision, which it imports)

    try:
        import transformers
    except ImportError:
        raise KdbenchError(
            "this takes Hugging Face's transformers, which are not installed: pip install 'kdbench[text]'"
        ) from None
    return transformers


def _padded(texts: Sequence[list[int]], length: int) -> np.ndarray:
    array = np.full((len(texts), 1, length, 1), PADDING, TOKENS)
    for row, text in zip(array, texts, strict=True):
        row[0, : len(text), 0] = text
    return array
