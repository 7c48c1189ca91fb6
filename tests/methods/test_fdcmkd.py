"""FD-CMKD: golden values, a formula of its own, its variants, controls and splits."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from builders import BATCH, CASES, CLASSES, GOLDENS, SIDES, build, given, golden, signals

from kdbench.frequency import split_channels
from kdbench.methods import fdcmkd
from kdbench.methods.base import cross_entropy
from kdbench.methods.fdcmkd import high_loss, low_loss

HEADS_ONLY = {"weight": 0.0, "align_weight": 0.0}
RNG = np.random.default_rng(0)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("name", "loss"), [("fd_low", low_loss), ("fd_high", high_loss)])
def test_fd_golden(case, name, loss):
    student, teacher = given(case, "fd_student_feature", "fd_teacher_feature")
    student.requires_grad_()
    golden(case, name, loss(student, teacher), student, "student_feature")


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("side", ["student", "teacher"])
def test_fd_bands_golden(case, side):
    bands = split_channels(*given(case, f"fd_{side}_feature"))
    for name, band in zip(("low", "high"), bands, strict=True):
        expected = GOLDENS[f"{case}/out/fd.{side}_{name}"]
        np.testing.assert_allclose(band.numpy(), expected, rtol=1e-9, atol=1e-9 * abs(expected).max())


def test_fd_is_numpys():
    def unit_bands(x):
        f = np.fft.rfft(x, axis=1)
        low, high = f.copy(), f.copy()
        low[:, 0] = low[:, 9:] = 0
        high[:, :9] = 0
        parts = [np.fft.irfft(part, n=x.shape[1], axis=1) for part in (low, high)]
        return [part / np.linalg.norm(part, axis=1, keepdims=True) for part in parts]

    s, t = RNG.normal(size=(2, 4, 33)) + 1
    (s_low, s_high), (t_low, t_high) = unit_bands(s), unit_bands(t)
    arguments = torch.from_numpy(s), torch.from_numpy(t)
    assert low_loss(*arguments).item() == pytest.approx(((s_low - t_low) ** 2).mean())

    def compress(x):
        return np.sign(x) * np.log1p(abs(x))

    assert high_loss(*arguments).item() == pytest.approx(((compress(s_high) - compress(t_high)) ** 2).mean())


def test_fd_of_zero_and_of_bf16_features_is_finite():
    student = torch.zeros(4, 16, requires_grad=True)
    value = low_loss(student, torch.randn(4, 16)) + high_loss(student, torch.randn(4, 16, dtype=torch.bfloat16))
    (gradient,) = torch.autograd.grad(value, student)
    assert value.isfinite() and gradient.isfinite().all()


def test_fd_is_least_where_bands_agree_up_to_scale_and_offset():
    teacher = torch.randn(4, 16, dtype=torch.float64)
    assert low_loss(3 * teacher + 2, teacher) < 1e-20
    assert high_loss(3 * teacher + 2, teacher) < 1e-20
    assert low_loss(-teacher, teacher).item() == pytest.approx(4 / 16)


def test_fdcmkd_terms_by_variant():
    def terms(**changes):
        distiller = build("fdcmkd", changes, "cnn", "mlp")
        teacher = signals(SIDES["mlp"], seed=1) if distiller.pair.teacher else None
        return distiller(signals(SIDES["cnn"]), teacher, torch.arange(BATCH) % CLASSES, 0.0)

    code = {"ce", "ce_low", "ce_high", "low", "high", "align_low", "align_high"}
    assert set(terms()) == code
    heavy, plain = terms(weight=3.0), terms()
    assert all(heavy[band].item() == pytest.approx(3 * plain[band].item()) for band in ("low", "high"))
    assert all(torch.equal(heavy[name], plain[name]) for name in code - {"low", "high"})
    assert set(terms(variant="paper")) == code - {"ce_low", "ce_high"}
    assert set(terms(teacher=False)) == {"ce", "ce_low", "ce_high"}
    assert set(terms(align_weight=0.0)) == code - {"align_low", "align_high"}
    assert set(terms(lambda_low=0.0, lambda_high=0.0)) == code - {"low", "high"}
    assert terms(times_width=True)["low"].item() == pytest.approx(24 * terms()["low"].item())
    own, other = signals(SIDES["cnn"]).pooled_preact, signals(SIDES["mlp"], seed=1).pooled_preact
    assert terms()["low"].item() == pytest.approx(fdcmkd.low_loss(own, other).item())
    assert terms()["high"].item() == pytest.approx(fdcmkd.high_loss(own, other).item())


def test_fdcmkd_tells_of_its_projector():
    assert build("fdcmkd", {}, "cnn", "mlp").notes() == []
    assert "16 to 24" in build("fdcmkd", {}, "vit", "mlp").notes()[0]


@pytest.mark.parametrize("variant", ["code", "paper"])
def test_fdcmkd_heads_only_is_the_method_without_its_losses_on_the_teacher(variant):
    """Where widths agree it is the arm without a teacher; where they differ its heads read the method's Linear."""
    target = torch.arange(BATCH) % CLASSES
    same = [
        build("fdcmkd", {"variant": variant, **changes}, "cnn", "mlp")(signals(SIDES["cnn"]), theirs, target, 0.0)
        for changes, theirs in ((HEADS_ONLY, signals(SIDES["mlp"], seed=1)), ({"teacher": False}, None))
    ]
    assert set(same[0]) == {"ce", "ce_low", "ce_high"} and all(torch.equal(same[0][k], same[1][k]) for k in same[0])
    full, heads = (build("fdcmkd", {"variant": "code", **changes}, "vit", "mlp") for changes in ({}, HEADS_ONLY))
    state = full.state_dict()
    assert heads.projector.out_features == 24 and "16 to 24" in heads.notes()[0]
    assert all(torch.equal(value, state[name]) for name, value in heads.state_dict().items())
    ours, theirs = signals(SIDES["vit"]), signals(SIDES["mlp"], seed=1)
    both = [distiller(ours, theirs, target, 0.0) for distiller in (full, heads)]
    assert set(both[1]) == {"ce", "ce_low", "ce_high"} and all(torch.equal(both[0][k], both[1][k]) for k in both[1])


def test_heads_are_shown_as_they_are_trained():
    target = torch.arange(BATCH) % CLASSES
    ours, theirs = signals(SIDES["cnn"]), signals(SIDES["mlp"], seed=1)

    def of_heads(distiller):
        return {band: cross_entropy(logits, target) for band, logits in distiller.head_logits(ours).items()}

    code = build("fdcmkd", {}, "cnn", "mlp")
    terms = code(ours, theirs, target, 0.0)
    assert code.has_heads and of_heads(code) == {band: terms[f"ce_{band}"] for band in ("low", "high")}
    paper = build("fdcmkd", {"variant": "paper"}, "cnn", "mlp")
    twice = paper(ours, replace(theirs, pooled_preact=ours.pooled_preact), target, 0.0)
    assert paper.has_heads and of_heads(paper) == {b: twice[f"align_{b}"] / 2 for b in ("low", "high")}
    assert not build("fdcmkd", {"variant": "paper", "align_weight": 0.0}, "cnn", "mlp").has_heads


@pytest.mark.parametrize("width", [5, 16, 33])
@pytest.mark.parametrize("split", ["frequency", "permuted", "random"])
def test_splits_are_complementary_projections_of_the_same_ranks(width, split):
    module = fdcmkd.RandomSplit(width) if split == "random" else fdcmkd.FrequencySplit(width, split == "permuted")
    low, high = module(torch.eye(width))
    centred = torch.eye(width) - 1 / width
    torch.testing.assert_close(low + high, centred, rtol=0, atol=1e-5)
    torch.testing.assert_close(low @ low, low, rtol=0, atol=1e-5)
    torch.testing.assert_close(low, low.T, rtol=0, atol=1e-5)
    assert torch.linalg.matrix_rank(low, atol=1e-3) == 2 * (width // 4)
