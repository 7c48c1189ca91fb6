"""Sentences for people: what was wrong, where, and the nearest valid choice."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from kdbench.types import KdbenchError


def unknown(kind: str, name: object, known: Iterable[str], where: str = "") -> KdbenchError:
    """An error that names what was not known and the nearest names that are."""
    known = sorted(str(k) for k in known)
    near = difflib.get_close_matches(str(name), known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known) if known else 'none'}"
    return KdbenchError(f"{where}{': ' if where else ''}unknown {kind} {str(name)!r}; {hint}")
