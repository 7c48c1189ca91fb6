"""kdbench: which knowledge-distillation method works when teacher and student are of different kinds."""

__version__ = "0.1.0"
