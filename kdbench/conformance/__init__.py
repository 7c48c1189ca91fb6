"""Does a method keep the rules of kdbench/methods/base.py? Tried on tiny networks and on a simulated device."""

from kdbench.conformance.rules import check, rehearse

__all__ = ["check", "rehearse"]
