"""DIST: the student's probabilities correlate with the teacher's, over classes and over the batch.

Huang et al., "Knowledge Distillation from A Stronger Teacher", NeurIPS 2022, arXiv 2205.10536. Equal to `dist_loss` of
Hao840/OFAKD at f7bb896 (golden values in tests/data); the same formula is in hunto/DIST_KD at 2418f18. Logits (B, C).

    p = softmax(logits / T)
    inter   1 - mean over samples of the Pearson correlation of the two rows p[b, :]
    intra   1 - mean over classes of the Pearson correlation of the two columns p[:, c]
    loss    T^2 (beta inter + gamma intra)

A correlation does not see an affine map of positive slope, so the student need not be as sure as the teacher. Defaults
are those of the OFA harness: beta, gamma and temperature 1, the whole term with weight 1. mdistiller does not have it.
No departures. A row or column without any spread, as of one sample alone, correlates with nothing: its term is 1.

Where the student's head starts at zero (timm's MLP-Mixer, its ViT with weight_init "jax"), all classes are without
spread at the first step, and rounding alone gives a gradient a million times that of any later one. Adam remembers it
for a thousand steps: give such students a recipe with `clip_grad` (5.0 in the OFA harness).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from kdbench.frequency import full_precision
from kdbench.methods.base import Distiller, cross_entropy
from kdbench.types import KdbenchError, Signals

TITLE = "DIST"
GROUP = "logits"
MAIN_WEIGHT = "weight"
HARNESS = "OFA"
BIBTEX = """
@inproceedings{huang2022dist,
  author = {Huang, Tao and others},
  title = {Knowledge Distillation from A Stronger Teacher},
  booktitle = {Advances in Neural Information Processing Systems},
  year = {2022},
  eprint = {2205.10536},
  archiveprefix = {arXiv},
}
"""


@dataclass(frozen=True)
class Params:
    ce_weight: float = 1.0
    """Weight of the cross-entropy (OFA harness: 1)."""
    weight: float = 1.0
    """Weight of the whole term (OFA harness: kd-loss-weight, 1)."""
    beta: float = 1.0
    """Weight of the correlation over classes, within a sample (OFA harness: 1)."""
    gamma: float = 1.0
    """Weight of the correlation over samples, within a class (OFA harness: 1)."""
    temperature: float = 1.0
    """Softens both distributions (OFA harness: 1)."""

    def __post_init__(self) -> None:
        if self.temperature <= 0:
            raise KdbenchError(f"dist: temperature must be above 0, got {self.temperature}")


def pearson(a: Tensor, b: Tensor, eps: float = 1e-8) -> Tensor:
    """Pearson correlation of each row of a (N, M) with the same row of b: (N,). eps is added to |a| |b|."""
    a = a - a.mean(dim=1, keepdim=True)
    b = b - b.mean(dim=1, keepdim=True)
    return (a * b).sum(dim=1) / (a.norm(dim=1) * b.norm(dim=1) + eps)


def dist_loss(
    student_logits: Tensor, teacher_logits: Tensor, beta: float = 1.0, gamma: float = 1.0, temperature: float = 1.0
) -> Tensor:
    """T^2 (beta inter + gamma intra) of logits (B, C), as above. No gradient reaches the teacher."""
    student = (full_precision(student_logits) / temperature).softmax(dim=1)
    teacher = (full_precision(teacher_logits.detach()) / temperature).softmax(dim=1)
    inter = 1 - pearson(student, teacher).mean()
    intra = 1 - pearson(student.T, teacher.T).mean()
    return temperature**2 * (beta * inter + gamma * intra)


class Method(Distiller):
    Params = Params

    def forward(self, student: Signals, teacher: Signals | None, target: Tensor, progress: float) -> dict[str, Tensor]:
        p = self.params
        return {
            "ce": p.ce_weight * cross_entropy(student.logits, target),
            "dist": p.weight * dist_loss(student.logits, teacher.logits, p.beta, p.gamma, p.temperature),
        }
