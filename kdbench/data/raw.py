"""What a data source builds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from kdbench.types import KdbenchError

FEWEST_TEST = 4


class SourceMissing(KdbenchError):
    """The files of a source are not on this machine, as opposed to being there and faulty."""


@dataclass(frozen=True)
class Files:
    """Picture files of one split, which are decoded when they are packed; indexed by positions (n,): these of them."""

    paths: Sequence[Path]
    names: Sequence[str]
    size: int
    """Side in pixels at which networks will see them."""
    short_side: int | None
    """Pictures with a longer one are resized to it (bicubic); None: none is."""
    ground: str
    """Colour on which transparent pictures are laid."""

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return (len(self.paths), self.size, self.size, 3)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: np.ndarray) -> Files:
        chosen = ([some[i] for i in index] for some in (self.paths, self.names))
        return Files(*chosen, self.size, self.short_side, self.ground)


@dataclass
class RawData:
    """What a source builds. Samples of one index are the same instance in every modality."""

    modalities: dict[str, dict[str, np.ndarray | Files]]
    """Modality -> split -> uint8 (N, H, W, C); a sequence of L points with C channels is (N, 1, L, C). Or the files of
    pictures that are packed as JPEG. Or the tokens of texts, int32 (N, 1, L, 1), padded with 0 at their end."""
    kinds: dict[str, str]
    """Modality -> `image`, `spectrogram` (an image that no augmentation moves), `sequence` or `tokens`."""
    labels: dict[str, np.ndarray]
    """Split -> int64 (N,), positions in `class_names`."""
    class_names: list[str]
    notes: list[str]
    """What a table over these data should tell its reader."""
    names: dict[str, list[str]] = field(default_factory=dict)
    """Split -> what the source calls its samples, (N,), for sources that have names for them."""
    vocabularies: dict[str, int] = field(default_factory=dict)
    """Modality of tokens -> how many different ones there are, the padding among them."""
    sizes: dict[str, int] = field(default_factory=dict)
    """Modality -> side in pixels to which its images are enlarged where networks read them; by default none is."""
    groups: tuple[str, Sequence[str]] | None = None
    """Which test samples belong together, where the source knows: what a group is, in the plural ("faces", "speakers"),
    and the name of each test sample's group (N,). In no checksum, since no network sees it."""


def stratified_order(labels: np.ndarray, seed: int = 0) -> np.ndarray:
    """A shuffled order (N,) of all samples in which every stretch holds the classes in their shares.

    Cutting it anywhere gives stratified parts, and a longer first part contains a shorter one. Class by class, the
    shuffled members are spread evenly over [0, 1); sorting by that position mixes the classes.
    """
    rng = np.random.default_rng(seed)
    position = np.empty(len(labels))
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        position[members] = (np.arange(len(members)) + 0.5) / len(members)
    return np.lexsort((rng.random(len(labels)), position))
