"""Two lines that keep a table honest: what a method without any network reaches on the same data.

Nearest neighbour and logistic regression on raw values, of texts on how often each token occurs. A network that does
not beat them has learnt little.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from scipy.sparse import csr_array

from kdbench.data.raw import stratified_order

TRAIN, TEST = 5000, 2000
VALUES = 4096


def anchors(
    modalities: dict[str, dict[str, np.ndarray]],
    labels: dict[str, np.ndarray],
    vocabularies: dict[str, int] | None = None,
) -> dict[str, dict[str, float | int]]:
    """Test accuracy in percent of both, for each modality.

    modalities, labels and vocabularies: as in RawData. Values are standardised by channel with the mean and sd of the
    training samples used. At most 5,000 training and 2,000 test samples are used, a stratified choice; `train_used` and
    `test_used` say how many. Samples of more than 4,096 values are first averaged over `block` x `block` pixels (1: as
    they are). A text is its counts of tokens, padding left out, each divided by its sd. Nearest neighbour: one
    neighbour, L2. Logistic regression: multinomial, L2 penalty (scikit-learn's C = 0.01), 50 steps of L-BFGS, converged
    or not; neither is tuned to a data set.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier

    train = stratified_order(labels["train"])[:TRAIN]
    test = stratified_order(labels["test"])[:TEST]
    result: dict[str, dict[str, Any]] = {}
    for name, splits in modalities.items():
        if vocabularies and name in vocabularies:
            block = 1
            x_train, x_test = _scaled_counts(splits["train"][train], splits["test"][test], vocabularies[name])
        else:
            block = _block(splits["train"].shape[1:])
            x_train, x_test = (_average(splits[s][i], block) for s, i in (("train", train), ("test", test)))
            mean, std = x_train.mean(axis=(0, 1, 2)), x_train.std(axis=(0, 1, 2))
            x_train, x_test = (((x - mean) / np.where(std > 0, std, 1)).reshape(len(x), -1) for x in (x_train, x_test))
        result[name] = {}
        for title, model in (
            ("nearest neighbour", KNeighborsClassifier(n_neighbors=1, algorithm="brute")),
            ("logistic regression", LogisticRegression(C=0.01, max_iter=50)),
        ):
            with warnings.catch_warnings():
                # Not converged, one sample of a class, overflow: both lines are what they are after these steps.
                warnings.simplefilter("ignore")
                if len(np.unique(labels["train"][train])) > 1:
                    predicted = model.fit(x_train, labels["train"][train]).predict(x_test)
                else:  # a class so rare that none of it is among those used
                    predicted = labels["train"][train][0]
            result[name][title] = 100 * float(np.mean(predicted == labels["test"][test]))
        result[name] |= {"train_used": len(train), "test_used": len(test), "block": block}
    return result


def _block(shape: tuple[int, ...]) -> int:
    """Smallest side of averaging blocks that leaves at most VALUES values of a sample (H, W, C), or one a channel."""
    height, width, channels = shape
    block = 1
    while block < max(height, width) and max(height // block, 1) * max(width // block, 1) * channels > VALUES:
        block += 1
    return block


def _average(images: np.ndarray, block: int) -> np.ndarray:
    """(N, H, W, C) uint8 -> (N, H // block, W // block, C) float32; a sequence (H = 1) is averaged along W only."""
    n, height, width, channels = images.shape
    rows, columns = min(block, height), min(block, width)
    images = images[:, : height // rows * rows, : width // columns * columns]
    blocks = images.reshape(n, height // rows, rows, width // columns, columns, channels)
    return blocks.mean(axis=(2, 4), dtype=np.float32)


def _scaled_counts(train: np.ndarray, test: np.ndarray, vocabulary: int) -> tuple[csr_array, csr_array]:
    """Tokens (N, 1, L, 1) of two splits -> how often each occurs, (N, vocabulary), divided by its sd in training."""
    from sklearn.preprocessing import StandardScaler

    counted = []
    for tokens in (train, test):
        rows, places = np.nonzero(tokens[:, 0, :, 0])
        found = tokens[rows, 0, places, 0]
        # What stands twice at one place is added up.
        counted.append(csr_array((np.ones(len(found)), (rows, found)), shape=(len(tokens), vocabulary)))
    scaler = StandardScaler(with_mean=False).fit(counted[0])
    return scaler.transform(counted[0]), scaler.transform(counted[1])
