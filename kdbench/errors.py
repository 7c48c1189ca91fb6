"""Sentences for people: what was wrong, where, and the nearest valid choice."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from kdbench.types import KdbenchError

FEW = 8
"""A closed set of so many values is listed rather than guessed from."""


def unknown(kind: str, name: object, known: Iterable[str], where: str = "") -> KdbenchError:
    """An error that names what was not known, and the nearest name that is or all of them."""
    known = sorted(str(k) for k in known)
    alike, cutoff = known, 0.5
    if len(known) <= FEW:
        # Only a slip has one meant word in a short list: 'gpu' is no misspelt 'cpu', nor 'fp16' a misspelt 'bf16'.
        alike, cutoff = [k for k in known if k[:1] == str(name)[:1]], 0.75
    near = difflib.get_close_matches(str(name), alike, n=1, cutoff=cutoff)
    hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known) if known else 'none'}"
    return KdbenchError(f"{where}{': ' if where else ''}unknown {kind} {str(name)!r}; {hint}")
