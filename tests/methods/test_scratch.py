"""Scratch: cross-entropy alone."""

import pytest
import torch.nn.functional as F
from builders import CLASSES, HARD, SIDES, build, signals


@pytest.mark.parametrize("target", [HARD, 0.7 * F.one_hot(HARD, CLASSES) + 0.06])
def test_scratch_is_the_cross_entropy(target):
    ours = signals(SIDES["cnn"])
    found = build("scratch", {}, "cnn", "vit")(ours, None, target, 0.3)
    labels = target if target.ndim == 2 else F.one_hot(target, CLASSES)
    expected = -(ours.logits.log_softmax(1) * labels).sum(1).mean()
    assert set(found) == {"ce"} and found["ce"].item() == pytest.approx(expected.item())
