"""kdbench: which knowledge-distillation method works when teacher and student are of different kinds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kdbench.train.attach import attach

__all__ = ["attach"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """`attach` is imported where it is asked for: torch takes seconds, and most verbs do without."""
    if name == "attach":
        from kdbench.train.attach import attach

        return attach
    raise AttributeError(f"module 'kdbench' has no attribute {name!r}")
