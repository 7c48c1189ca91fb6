"""CIFAR-100: 60,000 colour images of 32x32 pixels in 100 classes, downloaded by torchvision or taken from your folder.

Source: A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009;
https://www.cs.toronto.edu/~kriz/cifar.html. kdbench/data/sources/_cifar.py says where the images are looked for.
"""

from __future__ import annotations

from pathlib import Path

from kdbench.data.raw import RawData
from kdbench.data.sources import _cifar as cifar

BIBTEX = """
@misc{krizhevsky2009cifar,
  author = {Krizhevsky, A.},
  title = {Learning Multiple Layers of Features from Tiny Images},
  howpublished = {https://www.cs.toronto.edu/~kriz/cifar.html},
  year = {2009},
}
"""
ENLARGED = "size"
"""The argument that has networks read images larger than they are packed."""


def build(
    *,
    size: int = 32,
    limit: int | None = None,
    test_limit: int | None = None,
    val_share: float = 0.1,
    data_dir: Path | None = None,
) -> RawData:
    """Modality `image`, uint8 (N, 32, 32, 3), shuffled and stratified in a fixed way.

    size: side in pixels at which networks see the images; what is packed has 32. limit: take this many training images,
    before the validation images are split off them. test_limit: take this many test images. val_share: share of the
    training images that become validation images. Raises KdbenchError for a file
    that is not CIFAR-100 and for a download that failed.
    """
    return cifar.build("cifar100", 100, size, limit, test_limit, val_share, data_dir)


def source_files(args: dict, data_dir: Path | None) -> list[Path]:
    """The files of `data_dir` that `build` reads; none where it downloads."""
    return cifar.source_files("cifar100", data_dir)
