"""CRD: a sample's student and teacher embeddings recognise each other among embeddings of other classes.

Tian, Krishnan, Isola, "Contrastive Representation Distillation", ICLR 2020, arXiv 1910.10699; ContrastMemory and
ContrastLoss of Hao840/OFAKD at f7bb896, the same as RepDistiller's (golden values in tests/data). Pooled features
(B, D) -> Linear to 128 -> unit length, one such embedding a side, both trained. Two banks hold the last embeddings of
all N training samples; a row is averaged with its new value (momentum 0.5) and brought back to unit length. With
P = exp(<v, bank row> / tau) / Z, Z = N x the mean of the first batch's scores and fixed from then on, and noise K / N:

    loss = -[log P+ / (P+ + K/N) + sum over K negatives of log (K/N) / (P + K/N)], batch mean,
           of the student's embedding against the teacher's bank plus the other way round

Defaults are the OFA harness': K 16384, tau 0.07, momentum 0.5, weight 1, no KL term (`kd_weight` adds one; RepDistiller
reports both). Preset "mdistiller": weight 0.8 and, should a KL term be added, its temperature 4. Positives are the
sample itself (mode "exact" there).

Departures:

- Negatives are drawn with replacement from the samples of other classes; RepDistiller's loader does so only where
  these are fewer than K. They are drawn where the loss is computed, from the method's own random stream.
- K is at most the number of samples outside the largest class (told in the notes): more would only repeat them, and K
  also scales the noise.
- Scores are computed against the whole bank and weighted by how often each sample was drawn: the same sum without
  gathering B x K rows, and without sums in random order on a GPU.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdbench.frequency import full_precision
from kdbench.methods.base import Distiller, cross_entropy
from kdbench.methods.kd import with_kl_term
from kdbench.types import KdbenchError, PairShapes, Signals

TITLE = "CRD"
GROUP = "features"
MAIN_WEIGHT = "weight"
HARNESS = "OFA"
PRESETS = {"mdistiller": {"weight": 0.8, "temperature": 4.0}}
BIBTEX = """
@inproceedings{tian2020crd,
  author = {Tian, Yonglong and Krishnan, Dilip and Isola, Phillip},
  title = {Contrastive Representation Distillation},
  booktitle = {International Conference on Learning Representations},
  year = {2020},
  eprint = {1910.10699},
  archiveprefix = {arXiv},
}
"""


@dataclass(frozen=True)
class Params:
    ce_weight: float = 1.0
    """Weight of the cross-entropy (both harnesses: 1)."""
    weight: float = 1.0
    """Weight of the contrastive loss (OFA harness: 1; mdistiller: 0.8)."""
    negatives: int = 16384
    """K, negatives a sample (both harnesses: 16384); at most as many as there are outside the largest class."""
    width: int = 128
    """Width of the embeddings (both harnesses: 128)."""
    tau: float = 0.07
    """Temperature of the scores (both harnesses: 0.07)."""
    momentum: float = 0.5
    """Share of the old row in an updated bank (both harnesses: 0.5)."""
    kd_weight: float = 0.0
    """Weight of the KL divergence of the logits (OFA harness: none)."""
    temperature: float = 1.0
    """Softens both distributions of that KL divergence (OFA harness: 1; mdistiller: 4)."""

    def __post_init__(self) -> None:
        if self.negatives < 1 or self.width < 1:
            raise KdbenchError(f"crd: negatives and width must be above 0, got {self.negatives} and {self.width}")
        if not 0 <= self.momentum < 1:
            raise KdbenchError(f"crd: momentum must be at least 0 and below 1, got {self.momentum}")
        if self.tau <= 0 or self.temperature <= 0:
            raise KdbenchError(f"crd: tau and temperature must be above 0, got {self.tau} and {self.temperature}")


def contrast_loss(probability: Tensor, positive: Tensor, drawn: Tensor) -> Tensor:
    """Noise-contrastive loss of one direction, batch mean.

    probability (B, N): P of each sample against each bank row. positive (B,): the sample's own row. drawn (B, N): how
    often each row was drawn as a negative, K times in all for each sample.
    """
    noise = drawn[0].sum() / probability.shape[1]
    odds = probability + noise + 1e-7
    own = positive[:, None]
    log_positive = (probability.gather(1, own) / odds.gather(1, own)).log()
    return -(log_positive.sum() + (drawn * (noise / odds).log()).sum()) / len(probability)


class ContrastMemory(nn.Module):
    """The two banks (N, W) and their normalisers; part of the state, so that a resumed run goes on exactly."""

    def __init__(self, train_size: int, width: int, tau: float, momentum: float) -> None:
        super().__init__()
        self.tau, self.momentum = tau, momentum
        reach = 1 / math.sqrt(width / 3)
        for side in ("student", "teacher"):
            self.register_buffer(f"memory_{side}", (2 * torch.rand(train_size, width) - 1) * reach)
            self.register_buffer(f"normaliser_{side}", torch.tensor(math.nan))

    def forward(
        self, student_embedding: Tensor, teacher_embedding: Tensor, index: Tensor, contrast_index: Tensor
    ) -> Tensor:
        """Loss of both directions, after which the banks hold the new embeddings.

        Embeddings (B, W) of unit length; index (B,): positions in the training set; contrast_index (B, 1 + K):
        positions of the positive and of the negatives.
        """
        positive = contrast_index[:, 0]
        ones = torch.ones_like(contrast_index[:, 1:], dtype=student_embedding.dtype)
        drawn = ones.new_zeros(len(index), len(self.memory_student)).scatter_add(1, contrast_index[:, 1:], ones)
        loss = self._direction("student", student_embedding, self.memory_teacher, positive, drawn)
        loss = loss + self._direction("teacher", teacher_embedding, self.memory_student, positive, drawn)
        # New tensors, since the backward pass still needs the old banks.
        self.memory_student = self._updated(self.memory_student, student_embedding, index)
        self.memory_teacher = self._updated(self.memory_teacher, teacher_embedding, index)
        return loss

    def _updated(self, memory: Tensor, embedding: Tensor, index: Tensor) -> Tensor:
        mixed = self.momentum * memory[index] + (1 - self.momentum) * embedding.detach()
        return memory.index_copy(0, index, mixed / mixed.norm(dim=1, keepdim=True))

    def _direction(self, side: str, embedding: Tensor, memory: Tensor, positive: Tensor, drawn: Tensor) -> Tensor:
        scores = (embedding @ memory.T / self.tau).exp()
        normaliser = getattr(self, f"normaliser_{side}")
        seen = scores.detach()
        mean = (seen.gather(1, positive[:, None]).sum() + (drawn * seen).sum()) / (drawn.sum() + len(drawn))
        normaliser.copy_(torch.where(normaliser.isnan(), mean * len(memory), normaliser))
        return contrast_loss(scores / normaliser.clone(), positive, drawn)


class Negatives(nn.Module):
    """Draws positions of training samples of other classes, each equally likely, with replacement."""

    def __init__(self, labels: tuple[int, ...], classes: int) -> None:
        super().__init__()
        label = torch.tensor(labels)
        count = label.bincount(minlength=classes)
        self.register_buffer("label", label, persistent=False)
        self.register_buffer("by_class", label.argsort(stable=True), persistent=False)
        self.register_buffer("count", count, persistent=False)
        self.register_buffer("start", count.cumsum(0) - count, persistent=False)

    def forward(self, index: Tensor, number: int) -> Tensor:
        """Positions (B, number) for the samples at positions `index` (B,)."""
        own = self.label[index]
        count, start = self.count[own][:, None], self.start[own][:, None]
        others = len(self.label) - count
        # fp64, since a float32 number in [0, 1) is too coarse for a million samples.
        share = torch.rand(len(index), number, dtype=torch.float64, device=index.device)
        place = (share * others).long()
        return self.by_class[torch.where(place < start, place, place + count)]


class Method(Distiller):
    Params = Params

    def __init__(self, params: Params, pair: PairShapes) -> None:
        super().__init__(params, pair)
        self.embed_student = nn.Linear(pair.student.pooled, params.width)
        self.embed_teacher = nn.Linear(pair.teacher.pooled, params.width)
        self.contrast = ContrastMemory(pair.train_size, params.width, params.tau, params.momentum)
        self.draw = Negatives(pair.train_labels, pair.classes)
        self.negatives = min(params.negatives, pair.train_size - int(self.draw.count.max()))

    @classmethod
    def needs(cls, params: Any) -> frozenset[str]:
        return frozenset({"logits", "pooled", "index"})

    @classmethod
    def supports(cls, params: Any, pair: PairShapes) -> str | None:
        return None if len(set(pair.train_labels)) > 1 else "all training samples are of one class: no negatives"

    def notes(self) -> list[str]:
        if self.negatives == self.params.negatives:
            return []
        return [
            f"{self.negatives} negatives a sample in place of {self.params.negatives}: the training set has no more"
        ]

    def forward(self, student: Signals, teacher: Signals | None, target: Tensor, progress: float) -> dict[str, Tensor]:
        p = self.params
        with torch.autocast(student.logits.device.type, enabled=False):
            ours = F.normalize(self.embed_student(full_precision(student.pooled)), dim=1)
            theirs = F.normalize(self.embed_teacher(full_precision(teacher.pooled.detach())), dim=1)
            index = student.index
            chosen = torch.cat([index[:, None], self.draw(index, self.negatives)], dim=1)
            loss = self.contrast(ours, theirs, index, chosen)
        terms = {"ce": p.ce_weight * cross_entropy(student.logits, target), "crd": p.weight * loss}
        return with_kl_term(terms, p, student, teacher)
