"""MNIST: 70,000 grey images of handwritten digits, 28x28 pixels, downloaded by torchvision or taken from your folder.

Source: Y. LeCun, C. Cortes, C. J. C. Burges, The MNIST database of handwritten digits, http://yann.lecun.com/exdb/mnist/.
Licence: Creative Commons Attribution-Share Alike 3.0, copyright Y. LeCun and C. Cortes, as keras.io states it;
torchvision and the files state none. No image of it is part of kdbench.

Looked for in this order: the folder mnist in `data_dir` (the setting KDBENCH_DATA) with the four published files, each
as it is or as .gz, and results/data/downloads/mnist, into which torchvision's download goes. Every file must have the
content that was published, by its MD5; how it was packed does not matter.
"""

from __future__ import annotations

import gzip
import hashlib
import zlib
from pathlib import Path

import numpy as np

from kdbench.data.labelled import Labelled, split
from kdbench.data.raw import RawData, SourceMissing
from kdbench.data.sources._download import DOWNLOADS, fetching
from kdbench.types import KdbenchError

BIBTEX = """
@misc{lecunmnist,
  author = {LeCun, Y. and Cortes, C. and Burges, C. J. C.},
  title = {The {MNIST} database of handwritten digits},
  howpublished = {http://yann.lecun.com/exdb/mnist/},
}
"""
FILES = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}
"""The published files -> MD5 of their contents."""


def build(
    *,
    limit: int | None = None,
    test_limit: int | None = None,
    val_share: float = 0.1,
    data_dir: Path | None = None,
) -> RawData:
    """Modality `image`, uint8 (N, 28, 28, 1), white digits on black, shuffled and stratified in a fixed way.

    limit: take this many training images, before the validation images are split off them. test_limit: take this many
    test images. val_share: share of the training images that become validation images, since MNIST has none of its
    own. Raises KdbenchError for a file that is not MNIST's and for a download that failed.
    """
    return split(read(data_dir), limit, test_limit, val_share)


def read(data_dir: Path | None) -> Labelled:
    """Its two parts in the order of the files. Raises KdbenchError as `build` does."""
    paths = source_files({}, data_dir) or _downloaded()
    train_images, train_labels, test_images, test_labels = map(_content, paths, FILES.values())
    return Labelled(
        where="mnist",
        images={"train": _images(train_images), "test": _images(test_images)},
        labels={"train": _labels(train_labels), "test": _labels(test_labels)},
        class_names=list("0123456789"),
    )


def source_files(args: dict, data_dir: Path | None) -> list[Path]:
    """The four files of `data_dir` that `build` reads, in the order of FILES; none where it downloads.

    Raises SourceMissing for a folder mnist that lacks one of them.
    """
    folder = data_dir / "mnist" if data_dir else None
    if folder is None or not folder.is_dir():
        return []
    found = []
    for name in FILES:
        path = next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None)
        if path is None:
            raise SourceMissing(f"mnist: {folder} (setting KDBENCH_DATA) has neither {name} nor {name}.gz")
        found.append(path)
    return found


def _content(path: Path, md5: str) -> bytes:
    """A published file, unpacked."""
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise KdbenchError(f"mnist: {path} cannot be unpacked: {error}; fetch it again") from error
    if hashlib.md5(content, usedforsecurity=False).hexdigest() != md5:
        raise KdbenchError(f"mnist: {path} is not the published file (another MD5); fetch it again")
    return content


def _images(content: bytes) -> np.ndarray:
    return np.frombuffer(content, np.uint8, offset=16).reshape(-1, 28, 28, 1)


def _labels(content: bytes) -> np.ndarray:
    return np.frombuffer(content, np.uint8, offset=8).astype(np.int64)


def _downloaded() -> list[Path]:
    """The four files in results/data/downloads, fetched if they are not there whole."""
    import kdbench.torchvision_ops  # noqa: F401, I001  (before torchvision)
    from torchvision import datasets
    from torchvision.datasets.utils import check_integrity

    folder = DOWNLOADS / "mnist"
    with fetching("mnist", datasets.MNIST.mirrors[0], "mnist/") as fresh:
        if not all(check_integrity(folder / name, md5) for name, md5 in FILES.items()):
            raw = Path(datasets.MNIST(fresh, download=True).raw_folder)
            folder.mkdir(exist_ok=True)
            for name in FILES:
                (raw / name).replace(folder / name)
    return [folder / name for name in FILES]
