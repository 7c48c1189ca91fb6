"""Handwritten digits: the 1,797 real 8x8 images that come with scikit-learn.

Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning Repository, 1998; its
test part, as sklearn.datasets.load_digits has it. The split is random, so writers are shared by train and test.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from kdbench.data.raw import RawData, stratified_order
from kdbench.types import KdbenchError

BIBTEX = """
@misc{alpaydin1998digits,
  author = {Alpaydin, E. and Kaynak, C.},
  title = {Optical Recognition of Handwritten Digits},
  howpublished = {UCI Machine Learning Repository},
  year = {1998},
}
"""
COUNTS = {"train": 1000, "val": 257, "test": 540}


def build(*, size: int = 8, data_dir: Path | None = None) -> RawData:
    """Modality `image`, uint8 (N, size, size, 1), in a fixed stratified split of 1000 / 257 / 540.

    size: 8 or a multiple of it (bilinear). Grey levels 0..16 become 0..255. Raises KdbenchError for another size.
    """
    if size < 8 or size % 8:
        raise KdbenchError(f"digits: size {size} is not a multiple of 8; the nearest is {max(8, round(size / 8) * 8)}")
    # scikit-learn takes two seconds to import, and nobody pays for it who only looks at this file.
    from sklearn.datasets import load_digits

    digits = load_digits()
    # Output pixel centres in input pixels; np.interp holds the border values beyond the outermost centres.
    centres = (np.arange(size) + 0.5) * 8 / size - 0.5
    resize = np.stack([np.interp(centres, np.arange(8), unit) for unit in np.eye(8)], axis=1)
    images = np.rint(resize @ digits.images @ resize.T * (255 / 16)).astype(np.uint8)[..., None]

    order = stratified_order(digits.target)
    parts = dict(zip(COUNTS, np.split(order, np.cumsum(list(COUNTS.values()))[:-1]), strict=True))
    return RawData(
        modalities={"image": {split: images[part] for split, part in parts.items()}},
        kinds={"image": "image"},
        labels={split: digits.target[part].astype(np.int64) for split, part in parts.items()},
        class_names=[str(digit) for digit in range(10)],
        notes=["1,797 real handwritten digits of 8x8 pixels; train and test share writers"],
    )
