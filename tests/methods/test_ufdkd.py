"""UFD-KD: the released cosine transforms in NumPy, value and gradient; the projector; and whom it serves."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from builders import CLASSES, HARD, SIDES, build, numpys, signals, terms

from kdbench.methods import ufdkd
from kdbench.types import PairShapes

RNG = np.random.default_rng(9)
CASES = {
    "random": tuple(RNG.normal(size=(2, 2, 5, 3, 4))),
    "random, one row": tuple(RNG.normal(size=(2, 1, 4, 1, 6)) * 3 + 1),
    "gap 200": (RNG.normal(size=(1, 3, 2, 2)), 200 * RNG.normal(size=(1, 3, 2, 2))),
}
CASES["teacher = student"] = (CASES["random"][1], CASES["random"][1])


def dct_matrix(n):
    """The DCT-II, unnormalised: row k holds 2 cos(pi k (2 i + 1) / (2 n))."""
    return 2 * np.cos(np.pi * np.arange(n)[:, None] * (2 * np.arange(n) + 1) / (2 * n))


def parts(x, axes):
    """Inverse transforms of coefficient 0 alone and of all the others, over these axes."""
    coefficients, only_dc = x, np.zeros(x.shape)
    for axis in axes:
        coefficients = np.moveaxis(np.tensordot(dct_matrix(x.shape[axis]), coefficients, (1, axis)), 0, axis)
    only_dc[tuple(0 if axis in axes else slice(None) for axis in range(x.ndim))] = 1
    found = []
    for kept in (coefficients * only_dc, coefficients * (1 - only_dc)):
        for axis in axes:
            kept = np.moveaxis(np.tensordot(np.linalg.inv(dct_matrix(x.shape[axis])), kept, (1, axis)), 0, axis)
        found.append(kept)
    return found


def unit(x, axes):
    return x / np.sqrt((x**2).sum(axes, keepdims=True))


def formula(student, teacher, axes, unit_axes, part):
    ours, theirs = (unit(parts(x, axes)[part], unit_axes) for x in (student, teacher))
    return ((ours - theirs) ** 2).sum() / len(student)


@pytest.mark.parametrize(
    ("losses", "axes", "unit_axes"),
    [(ufdkd.space_losses, (2, 3), (1,)), (ufdkd.channel_losses, (1,), (2, 3))],
    ids=["space", "channels"],
)
@pytest.mark.parametrize("part", [0, 1], ids=["DC", "AC"])
@pytest.mark.parametrize("case", CASES)
def test_ufd_is_numpys(case, part, losses, axes, unit_axes):
    student, teacher = CASES[case]
    numpys(
        lambda s: losses(s.flatten(2), torch.from_numpy(teacher).flatten(2))[part],
        lambda s: formula(s, teacher, axes, unit_axes, part),
        student,
        tolerance=1e-8,
    )


def test_the_losses_do_not_see_the_size_of_maps():
    student, teacher = torch.randn(2, 2, 5, 12, dtype=torch.float64)
    for losses in (ufdkd.space_losses, ufdkd.channel_losses):
        assert torch.stack(losses(7 * student, teacher / 3)).tolist() == pytest.approx(
            torch.stack(losses(student, teacher)).tolist()
        )


def test_the_projector_is_attention_with_learned_queries():
    torch.manual_seed(0)
    projector = ufdkd.Projector((6, 3, 2), 8, positions=5).double().eval()
    maps = torch.randn(2, 6, 3, 2, dtype=torch.float64)
    assert projector.heads == 8 and ufdkd.Projector((6, 3, 2), 48, 5).heads == 24
    tokens = (projector.local(maps) + projector.position).flatten(2).transpose(1, 2)
    queries, keys, values = projector.query(projector.queries), projector.key(tokens), projector.value(tokens)
    heads = []
    for head in range(8):  # of width 1, so that 1 / sqrt(width) is 1
        logits = 5 * queries[None, :, head, None] * keys[:, None, :, head]
        heads.append((logits.softmax(-1) * values[:, None, :, head]).sum(-1))
    attended = projector.norm(projector.out(torch.stack(heads, -1)))
    expected = (attended + projector.ffn(attended)).transpose(1, 2)
    torch.testing.assert_close(projector(maps), expected)


def test_weights_belong_to_their_terms():
    weighted = {"space_dc": 1.0, "space_ac": 2.0, "channel_dc": 3.0, "channel_ac": 4.0}
    distiller = build("ufdkd", weighted, "cnn", "mlp")
    student, teacher = signals(SIDES["cnn"]), signals(SIDES["mlp"], seed=1)
    found, theirs = distiller(student, teacher, HARD, 0.0), teacher.stages[-1].flatten(2)
    dc, ac = ufdkd.space_losses(distiller.over_space(student.stages[-1]), theirs)
    assert found["space"].item() == pytest.approx((dc + 2 * ac).item(), rel=1e-4)
    dc, ac = ufdkd.channel_losses(distiller.over_channels(student.stages[-1]), theirs)
    assert found["channels"].item() == pytest.approx((3 * dc + 4 * ac).item(), rel=1e-4)
    assert found["ce"].item() == pytest.approx(0.5 * F.cross_entropy(student.logits, HARD).item())
    assert set(terms("ufdkd", kd_weight=0.0)) == {"ce", "space", "channels"}


def test_a_last_map_of_one_cell_is_a_reason():
    pair = PairShapes(SIDES["cnn"], SIDES["cnn 1x1"], CLASSES, (0,))
    reason = "last map has one cell, so nothing of it varies over space"
    assert ufdkd.Method.supports(ufdkd.Params(), pair) == f"the teacher's {reason}"
    exchanged = replace(pair, student=pair.teacher, teacher=pair.student)
    assert ufdkd.Method.supports(ufdkd.Params(), exchanged) == f"the student's {reason}"
