"""MLDR-KD: a formula of its own, value and gradient; pieces; projectors, gate and fused logits as released."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from builders import CLASSES, HARD, SIDES, STUDENT, TEACHER, as_tensors, build, kl, log_softmax, numpys, signals, terms
from torch import nn

from kdbench.methods import mldrkd

RNG = np.random.default_rng(8)
CASES = {
    "random": (STUDENT, TEACHER),
    "random, more samples than classes": tuple(RNG.normal(size=(2, 7, 3)) * 2),
    "teacher = student": (TEACHER, TEACHER),
    "gap 200": (np.eye(5)[[0, 1, 2]] * 200, np.eye(5)[[1, 1, 3]] * 200),
    "one sample": (STUDENT[:1], TEACHER[:1]),
}


def formula(student, teacher, alpha):
    classes = student.shape[1]

    def relation(s, t):
        rows = []
        for ours, theirs in zip(s, t, strict=True):
            log_s, log_t = (log_softmax(np.outer(x, x) / np.sqrt(classes), 0) for x in (ours, theirs))
            rows.append((np.exp(log_t) * (log_t - log_s)).sum(1).mean())
        return np.mean(rows)

    return relation(student, teacher) + relation(student.T, teacher.T) + alpha * kl(teacher.astype(complex), student)


@pytest.mark.parametrize("case", CASES)
def test_mldr_is_numpys(case):
    student, teacher = CASES[case]
    numpys(
        lambda s: mldrkd.mldr_loss(s[None], torch.from_numpy(teacher), 2.0)[0],
        lambda s: formula(s, teacher, 2.0),
        student,
    )


def test_pieces_change_nothing(monkeypatch):
    students, teacher = torch.randn(3, 6, 5, dtype=torch.float64, requires_grad=True), as_tensors(TEACHER)[0]
    whole = mldrkd.mldr_loss(students, teacher, 2.0)
    (gradient,) = torch.autograd.grad(whole.sum(), students)
    monkeypatch.setattr(mldrkd, "LARGEST_PIECE", 3 * 5 * 5 * 4)
    pieces = mldrkd.mldr_loss(students, teacher, 2.0)
    torch.testing.assert_close(pieces, whole)
    torch.testing.assert_close(torch.autograd.grad(pieces.sum(), students)[0], gradient)


def test_no_piece_is_larger_than_allowed(monkeypatch):
    sizes = []
    relations = mldrkd.relations

    def measured(students, teacher, scale):
        sizes.append(students.numel() * students.shape[-1])
        return relations(students, teacher, scale)

    monkeypatch.setattr(mldrkd, "relations", measured)
    monkeypatch.setattr(mldrkd, "LARGEST_PIECE", 1000)
    mldrkd.mldr_loss(torch.randn(2, 30, 12), torch.randn(30, 12), 2.0)
    assert max(sizes) <= max(1000, 2 * 30**2) and sizes.count(2 * 12**2 * 3) == 10


def test_a_constant_more_changes_the_relations_though_no_probability():
    students, teacher = as_tensors(STUDENT[None], TEACHER)
    value, moved = (mldrkd.mldr_loss(z, teacher, 0.0).item() for z in (students, students + 1))
    assert moved != pytest.approx(value, rel=0.01)


def test_projectors_are_ofas_without_the_bias_at_stage_4():
    distiller = build("mldrkd", {}, "cnn", "mlp")
    depthwise = [
        [m.in_channels for m in p.modules() if isinstance(m, nn.Conv2d) and m.groups > 1] for p in distiller.projectors
    ]
    assert depthwise == [[8, 8, 16, 16, 32, 32], [12, 12, 24, 24], [16, 16], []]
    assert distiller.projectors[3][0].bias is None
    assert [layer.in_features for layer in distiller.classify] == [24] * 4
    assert (distiller.gate[0].out_features, distiller.gate[2].out_features) == (4 * CLASSES, CLASSES)
    assert distiller.notes() == [] and len(build("mldrkd", {}, "vit", "cnn").notes()) == 1


def test_fused_logits_weigh_the_stages_class_by_class():
    distiller, student = build("mldrkd", {}, "cnn", "mlp"), signals(SIDES["cnn"])
    nn.init.zeros_(distiller.gate[2].weight)
    stages, fused = distiller.exits(student)
    torch.testing.assert_close(fused, torch.stack(stages).mean(0))
    distiller.gate[2].weight.data[0] = 100 * torch.randn(4 * CLASSES)
    stages, fused = distiller.exits(student)
    torch.testing.assert_close(fused[:, 1:], torch.stack(stages).mean(0)[:, 1:])
    between = torch.stack(stages)[:, :, 0]
    assert ((between.amin(0) <= fused[:, 0] + 1e-6) & (fused[:, 0] <= between.amax(0) + 1e-6)).all()
    assert not torch.allclose(fused[:, 0], between.mean(0))


def test_terms_are_r_of_the_head_of_all_stages_and_of_the_fused():
    student, teacher = signals(SIDES["cnn"]), signals(SIDES["mlp"], seed=1)
    distiller = build("mldrkd", {"weight": 3.0, "alpha": 0.5}, "cnn", "mlp")
    found = distiller(student, teacher, HARD, 0.0)
    stages, fused = distiller.exits(student)
    r = [mldrkd.mldr_loss(z[None], teacher.logits, 0.5).item() for z in (student.logits, *stages, fused)]
    assert found["head"].item() == pytest.approx(3 * r[0], rel=1e-4)
    assert found["stages"].item() == pytest.approx(3 * sum(r[1:5]), rel=1e-4)
    assert found["fused"].item() == pytest.approx(3 * r[5], rel=1e-4)
    assert found["ce"].item() == pytest.approx(F.cross_entropy(student.logits, HARD).item())


def test_autocast_does_not_touch_the_relations():
    student, teacher = torch.randn(2, 6, 5), torch.randn(6, 5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = mldrkd.mldr_loss(student, teacher, 2.0)
    assert torch.equal(inside, mldrkd.mldr_loss(student, teacher, 2.0))
    assert terms("mldrkd", dtype=torch.bfloat16)["head"].dtype == torch.float32
