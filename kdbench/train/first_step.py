"""What pulls at a student at its first step: the share of each loss term in its gradient."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn


def gradient_shares(terms: Mapping[str, Tensor], student: nn.Module) -> Tensor:
    """(terms,): the norm of each term's gradient with respect to the student's parameters, over the sum of these norms.

    0 for a term that does not reach the student. The graph stays whole, and what parameters hold as their gradient is
    left alone. The norms do not add up to that of the whole gradient: terms may pull against each other.
    """
    parameters = [p for p in student.parameters() if p.requires_grad]
    norms = torch.stack([_gradient_norm(term, parameters) for term in terms.values()])
    return norms / norms.sum()


def _gradient_norm(term: Tensor, parameters: Sequence[Tensor]) -> Tensor:
    if not term.requires_grad:
        return term.new_zeros(())
    gradients = torch.autograd.grad(term, parameters, retain_graph=True, allow_unused=True)
    norms = [g.norm() for g in gradients if g is not None]
    return torch.stack(norms).norm() if norms else term.new_zeros(())
