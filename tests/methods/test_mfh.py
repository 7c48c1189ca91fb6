"""MFH: saliency by its definition, the masks, its loss, and the classifier that it adopts."""

import pytest
import torch
import torch.nn.functional as F
from builders import CLASSES, FAMILIES, HARD, SIDES, only, signals, tensors

from kdbench.methods import mfh
from kdbench.types import KdbenchError, PairShapes


class Teacher(torch.nn.Module):
    """What `adopt` is given: a network with timm's way to its classifier."""

    def __init__(self, width):
        super().__init__()
        self.fc = torch.nn.Linear(width, CLASSES)
        self.requires_grad_(False)

    def get_classifier(self):
        return self.fc


def build_mfh(changes, student="cnn", teacher="vit"):
    torch.manual_seed(0)
    params = mfh.Params(**changes)
    distiller = mfh.Method(params, PairShapes(SIDES[student], SIDES[teacher], CLASSES, (0, 1)))
    distiller.adopt(Teacher(SIDES[teacher].pooled), None)
    return distiller


def reachable(distiller, side, dtype=torch.float32, seed=1):
    """A teacher's signals whose logits are those of its classifier."""
    theirs = signals(side, dtype=dtype, seed=seed)
    theirs.logits = distiller.classifier(theirs.pooled.detach().float()).to(dtype).requires_grad_()
    return theirs


@pytest.mark.parametrize("progress", [0.0, 0.9])
@pytest.mark.parametrize("teacher", FAMILIES)
@pytest.mark.parametrize("student", FAMILIES)
@pytest.mark.parametrize("changes", [{}, {"keep": 0.1}, *mfh.PRESETS.values()])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_mfh_conformance(changes, student, teacher, progress, dtype):
    distiller = build_mfh(changes, student, teacher)
    ours, theirs = signals(SIDES[student], dtype=dtype), reachable(distiller, SIDES[teacher], dtype)
    needed = distiller.needs(distiller.params)
    for target in (HARD, 0.7 * F.one_hot(HARD, CLASSES) + 0.06):
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            terms = distiller(only(needed, ours), only(needed, theirs), target, progress)
        assert set(terms) == {"ce", "mfh"}
        assert all(term.ndim == 0 and term.isfinite() and term.dtype == torch.float32 for term in terms.values())
        sum(terms.values()).backward()
    assert ours.logits.grad.isfinite().all() and ours.logits.grad.any()
    assert all(t.grad is None for t in tensors(theirs))
    assert all(p.grad is None for p in distiller.parameters())


@pytest.mark.parametrize("distance", ["l1", "mse"])
def test_saliency_is_that_of_channels_permuted_one_by_one(distance):
    generator = torch.Generator().manual_seed(0)
    classifier = torch.nn.Linear(70, 4).double().requires_grad_(False)
    feature, student = torch.randn(6, 70, generator=generator).double(), torch.randn(6, 4, generator=generator).double()
    torch.manual_seed(1)
    value = mfh.saliency(feature, classifier.weight, classifier(feature), student, 3, distance)
    torch.manual_seed(1)
    expected = torch.zeros(70).double()
    for _ in range(3):
        order = torch.rand(6, 70, dtype=torch.float32).argsort(dim=0)
        for i in range(70):
            changed = feature.clone()
            changed[:, i] = feature[order[:, i], i]
            gap = (classifier(changed) - student).numpy()
            expected[i] += (abs(gap) if distance == "l1" else gap**2).mean() / 3
    torch.testing.assert_close(value, expected)


def test_channels_that_both_modalities_share_are_salient():
    torch.manual_seed(0)
    feature, weight = torch.randn(400, 6), torch.randn(4, 6)
    teacher, student = feature @ weight.T, feature[:, :3] @ weight[:, :3].T
    for distance in ("l1", "mse"):
        values = mfh.saliency(feature, weight, teacher, student, 5, distance)
        assert mfh.kept_channels(values, 0.5).tolist() == [True] * 3 + [False] * 3


def test_removed_channels_are_zero_or_their_mean():
    feature, kept = torch.randn(5, 3), torch.tensor([True, False, True])
    assert mfh.masked_feature(feature, kept)[:, 1].tolist() == [0] * 5
    torch.testing.assert_close(mfh.masked_feature(feature, kept, "mean")[:, 1], feature[:, 1].mean().expand(5))
    assert torch.equal(mfh.masked_feature(feature, kept, "mean")[:, kept], feature[:, kept])


def test_mfh_loss_reductions_and_extremes():
    student, teacher = torch.randn(2, 6, 5, dtype=torch.float64)
    log_s, t = student.log_softmax(1), teacher.softmax(1)
    total = (t * (t.log() - log_s)).sum().item()
    for reduction, number in (("batchmean", 6), ("mean", 30)):
        assert mfh.mfh_loss(student, teacher, reduction).item() == pytest.approx(total / number)
    assert mfh.mfh_loss(teacher, teacher).item() == pytest.approx(0, abs=1e-12)
    for dtype in (torch.float32, torch.bfloat16):
        far = torch.tensor([[200.0, 0], [0, 200]], dtype=dtype, requires_grad=True)
        value = mfh.mfh_loss(far, far.detach().flip(0))
        assert value.isfinite() and torch.autograd.grad(value, far)[0].isfinite().all()


def test_mfh_measures_first_and_then_keeps_its_mask():
    distiller = build_mfh({"ce_weight": 0.0})
    ours, theirs = signals(SIDES["cnn"]), reachable(distiller, SIDES["vit"])
    early = distiller(ours, theirs, HARD, 0.2)
    assert early["mfh"] == 0 and early["ce"] > 0 and (distiller.saliency > 0).all()
    measured = distiller.saliency.clone()
    assert torch.equal(distiller.state_dict()["saliency"], measured)
    late = distiller(ours, theirs, HARD, 0.25)
    assert late["mfh"] > 0 and late["ce"] == 0 and torch.equal(distiller.saliency, measured)
    kept = mfh.kept_channels(measured, 0.5)
    logits = distiller.classifier(theirs.pooled.detach() * kept)
    assert late["mfh"].item() == pytest.approx(mfh.mfh_loss(ours.logits, logits).item())


def test_fixed_half_removes_the_second_half_from_the_start():
    distiller = build_mfh({"mask": "fixed_half"})
    ours, theirs = signals(SIDES["cnn"]), reachable(distiller, SIDES["vit"])
    half = theirs.pooled.detach().clone()
    half[:, 8:] = 0
    expected = mfh.mfh_loss(ours.logits, distiller.classifier(half)).item()
    assert distiller(ours, theirs, HARD, 0.0)["mfh"].item() == pytest.approx(expected)
    assert "whatever their saliency" in distiller.notes()[0]


def test_mfh_adopts_a_linear_classifier_only():
    teacher = Teacher(16)
    teacher.fc = torch.nn.Conv2d(16, CLASSES, 1)
    distiller = mfh.Method(mfh.Params(), PairShapes(SIDES["cnn"], SIDES["vit"], CLASSES, (0, 1)))
    with pytest.raises(KdbenchError, match="not one Linear"):
        distiller.adopt(teacher, None)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"keep": 0.0}, "keep"),
        ({"mask": "fixed_half", "keep": 0.25}, "keep must be 0.5"),
        ({"permutations": 0}, "permutations"),
        ({"measure_share": 1.0}, "between 0 and 1"),
    ],
)
def test_impossible_settings_are_refused(changes, complaint):
    with pytest.raises(KdbenchError, match=complaint):
        mfh.Params(**changes)
