"""DKD, DIST, RKD, CC, SP, PKT, AT and VID: golden values, independent formulas, invariances, conformance."""

import importlib
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from builders import BATCH, CLASSES, FAMILIES, SIDES, build, conforms, signals
from test_losses import CASES, SETTINGS, check, given, softmax

from kdbench.methods import at, cc, dist, dkd, pkt, rkd, sp, vid
from kdbench.methods.kd import kd_loss
from kdbench.plan import registry
from kdbench.types import KdbenchError, PairShapes

VARIANTS = {
    "dkd": [{}, {"beta": 8.0, "temperature": 4.0, "warmup": 0.5}],
    "dist": [{}, {"beta": 2.0, "gamma": 0.0, "temperature": 2.0}],
    "rkd": [{}, {"kd_weight": 1.0, "angle_weight": 0.0}],
    "cc": [{}, {"kd_weight": 0.5, "width": 7}],
    "sp": [{}, {"feature": "pooled", "kd_weight": 1.0}],
    "pkt": [{}, {"kd_weight": 1.0, "temperature": 4.0}],
    "at": [{}, {"p": 1, "kd_weight": 1.0}],
    "vid": [{}, {"initial_variance": 1.0, "kd_weight": 1.0}],
}
SETTINGS_OF_METHODS = [(name, changes) for name, variants in VARIANTS.items() for changes in variants]
IDS = ["-".join([name, *(f"{k}={v}" for k, v in changes.items())]) for name, changes in SETTINGS_OF_METHODS]
HARD = torch.arange(BATCH) % CLASSES


# ------------------------------------------------------------------------------------------------------- golden values


@pytest.mark.parametrize("case", CASES)
def test_dkd_golden(case):
    student, teacher, target = given(case, "student_logits", "teacher_logits", "target")
    settings = SETTINGS[case]
    student.requires_grad_()
    value = dkd.dkd_loss(student, teacher, target, settings["dkd_alpha"], settings["dkd_beta"], settings["dkd_T"])
    check(case, "dkd", value, student, "student_logits")


@pytest.mark.parametrize("case", CASES)
def test_dist_golden(case):
    student, teacher = given(case, "student_logits", "teacher_logits")
    settings = SETTINGS[case]
    student.requires_grad_()
    value = dist.dist_loss(student, teacher, settings["dist_beta"], settings["dist_gamma"], settings["dist_tau"])
    check(case, "dist", value, student, "student_logits")


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("name", "loss"), [("rkd", rkd.rkd_loss), ("sp", sp.sp_loss), ("pkt", pkt.pkt_loss)])
def test_feature_goldens(case, name, loss):
    student, teacher = given(case, "student_feature", "teacher_feature")
    student.requires_grad_()
    check(case, name, loss(student, teacher), student, "student_feature")


@pytest.mark.parametrize("case", CASES)
def test_cc_golden(case):
    student, teacher = given(case, "cc_student_embedding", "cc_teacher_embedding")
    student.requires_grad_()
    check(case, "cc", cc.cc_loss(student, teacher), student, "student_embedding")


# ------------------------------------------------------------------------------------------------ independent formulas

RNG = np.random.default_rng(1)
STUDENT, TEACHER = RNG.normal(size=(2, 6, 5)) * 2
TARGET = np.array([0, 4, 2, 2, 1, 3])
STUDENT_FEATURE, TEACHER_FEATURE = RNG.normal(size=(6, 7)), RNG.normal(size=(6, 4)) + 0.5


def tensors(*arrays):
    return [torch.from_numpy(a) for a in arrays]


def divergence(teacher, student):
    return (teacher * np.log(teacher / student)).sum()


def test_dkd_is_numpys():
    tckd, nckd = [], []
    for s, t, y in zip(softmax(STUDENT / 3), softmax(TEACHER / 3), TARGET, strict=True):
        tckd.append(divergence(np.array([t[y], 1 - t[y]]), np.array([s[y], 1 - s[y]])))
        nckd.append(divergence(np.delete(t, y) / (1 - t[y]), np.delete(s, y) / (1 - s[y])))
    value = dkd.dkd_loss(*tensors(STUDENT, TEACHER, TARGET), 0.7, 5.0, 3.0)
    assert value.item() == pytest.approx(9 * (0.7 * np.mean(tckd) + 5 * np.mean(nckd)))


def test_dkd_with_the_teachers_own_weights_is_kd():
    """KD = TCKD + (1 - p_target of the teacher) NCKD, Eq. 7 of the paper; one sample, so that beta can be that."""
    student, teacher, target = (x[:1] for x in tensors(STUDENT, TEACHER, TARGET))
    rest = 1 - (teacher / 2).softmax(1)[0, target].item()
    value = dkd.dkd_loss(student, teacher, target, 1.0, rest, 2.0)
    assert value.item() == pytest.approx(kd_loss(student, teacher, 2.0).item())


def test_dist_is_numpys():
    s, t = softmax(STUDENT / 2), softmax(TEACHER / 2)
    inter = 1 - np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(s, t, strict=True)])
    intra = 1 - np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(s.T, t.T, strict=True)])
    value = dist.dist_loss(*tensors(STUDENT, TEACHER), 3.0, 0.5, 2.0)
    assert value.item() == pytest.approx(4 * (3 * inter + 0.5 * intra), rel=1e-5)


def smooth_l1(a, b):
    gap = abs(a - b)
    return np.where(gap < 1, gap**2 / 2, gap - 0.5).mean()


def test_rkd_is_numpys():
    def relations(x):
        n = len(x)
        distances, angles = np.zeros((n, n)), np.zeros((n, n, n))
        for i in range(n):
            for j in range(n):
                distances[i, j] = np.linalg.norm(x[i] - x[j])
                for k in range(n):
                    if i not in (j, k):
                        a, b = x[j] - x[i], x[k] - x[i]
                        angles[i, j, k] = a @ b / (np.linalg.norm(a) * np.linalg.norm(b))
        return distances / distances[distances > 0].mean(), angles

    (s_distances, s_angles), (t_distances, t_angles) = relations(STUDENT_FEATURE), relations(TEACHER_FEATURE)
    value = rkd.rkd_loss(*tensors(STUDENT_FEATURE, TEACHER_FEATURE), 3.0, 7.0)
    assert value.item() == pytest.approx(3 * smooth_l1(s_distances, t_distances) + 7 * smooth_l1(s_angles, t_angles))


def test_cc_is_numpys():
    s, t = STUDENT_FEATURE[:, :4], TEACHER_FEATURE
    expected = np.mean([(abs(s[b] - t[b]) * abs(s[b + 1] - t[b + 1])).sum() for b in range(5)])
    assert cc.cc_loss(*tensors(s, t)).item() == pytest.approx(expected)


def test_sp_is_numpys():
    def rows(x):
        gram = x @ x.T
        return gram / np.linalg.norm(gram, axis=1, keepdims=True)

    expected = ((rows(STUDENT_FEATURE) - rows(TEACHER_FEATURE)) ** 2).sum() / 36
    assert sp.sp_loss(*tensors(STUDENT_FEATURE, TEACHER_FEATURE)).item() == pytest.approx(expected)


def test_sp_flattens_maps_of_any_two_shapes():
    maps, other = torch.randn(4, 3, 5, 5), torch.randn(4, 6, 2, 1)
    assert sp.sp_loss(maps, other) == sp.sp_loss(maps.flatten(1), other.flatten(1))


def test_pkt_is_numpys():
    def shares(x):
        x = x / np.linalg.norm(x, axis=1, keepdims=True)
        similarity = (x @ x.T + 1) / 2
        return similarity / similarity.sum(1, keepdims=True)

    expected = divergence(shares(TEACHER_FEATURE), shares(STUDENT_FEATURE)) / 36
    assert pkt.pkt_loss(*tensors(STUDENT_FEATURE, TEACHER_FEATURE)).item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("p", [1, 2, 3])
def test_at_is_numpys(p):
    """Two stages: equal grids, and a student of 4 x 6 cells against a teacher of 2 x 12."""

    def attention(x):
        a = (abs(x) ** p).mean(1).reshape(len(x), -1)
        return a / np.linalg.norm(a, axis=1, keepdims=True)

    students = [RNG.normal(size=(3, 5, 4, 4)), RNG.normal(size=(3, 5, 4, 6))]
    teachers = [RNG.normal(size=(3, 2, 4, 4)), RNG.normal(size=(3, 7, 2, 12))]
    pooled_student = students[1].reshape(3, 5, 2, 2, 6).mean(3)
    pooled_teacher = teachers[1].reshape(3, 7, 2, 6, 2).mean(4)
    expected = ((attention(students[0]) - attention(teachers[0])) ** 2).mean()
    expected += ((attention(pooled_student) - attention(pooled_teacher)) ** 2).mean()
    assert at.at_loss(tensors(*students), tensors(*teachers), p).item() == pytest.approx(expected)


def test_vid_is_a_gaussian_likelihood_without_its_constant():
    predicted, target = torch.randn(2, 3, 4, 5, 5, dtype=torch.float64)
    variance = torch.rand(4, dtype=torch.float64) + 0.1
    normal = torch.distributions.Normal(predicted, variance.sqrt()[:, None, None])
    expected = -normal.log_prob(target).mean() - np.log(2 * np.pi) / 2
    assert vid.vid_loss(predicted, variance, target).item() == pytest.approx(expected.item())


# ---------------------------------------------------------------------------------------------------------- properties


@pytest.mark.parametrize("loss", [rkd.rkd_loss, sp.sp_loss, pkt.pkt_loss, cc.cc_loss])
def test_autocast_does_not_touch_the_pure_losses(loss):
    student, teacher = torch.randn(2, 6, 5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = loss(student, teacher)
    assert torch.equal(inside, loss(student, teacher))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_logit_gaps_of_200_stay_finite(dtype, temperature):
    student = torch.tensor([[200.0, 0, 0], [0, 200, 0], [0, 0, -200]], dtype=dtype, requires_grad=True)
    teacher = torch.tensor([[0.0, 200, 0], [0, 200, 0], [-200, 0, 0]], dtype=dtype)
    for target in (torch.tensor([2, 1, 0]), torch.tensor([0, 0, 2])):
        for value in (
            dkd.dkd_loss(student, teacher, target, 1.0, 8.0, temperature),
            dist.dist_loss(student, teacher, 1.0, 1.0, temperature),
        ):
            (gradient,) = torch.autograd.grad(value, student)
            assert value.dtype == torch.float32 and value.isfinite() and gradient.isfinite().all()


def test_dkd_still_pulls_where_the_students_probability_is_0():
    student = torch.tensor([[400.0, 0.0, 0.0]], requires_grad=True)
    value = dkd.dkd_loss(student, torch.tensor([[0.0, 5.0, 0.0]]), torch.tensor([1]), 1.0, 0.0, 1.0)
    (gradient,) = torch.autograd.grad(value, student)
    assert value.item() > 300 and gradient[0, 1] < -0.9


@pytest.mark.parametrize("loss", [rkd.rkd_loss, sp.sp_loss, pkt.pkt_loss, cc.cc_loss])
@pytest.mark.parametrize("student", [torch.zeros(5, 4), torch.ones(5, 4), torch.eye(4)[[0, 0, 1, 2, 3]]])
def test_collapsed_and_half_precision_features_stay_finite(loss, student):
    student = student.clone().requires_grad_()
    value = loss(student, torch.randn(5, 4, dtype=torch.bfloat16))
    (gradient,) = torch.autograd.grad(value, student)
    assert value.dtype == torch.float32 and value.isfinite() and gradient.isfinite().all()


def test_rkd_of_equal_samples_has_no_huge_gradient():
    student = torch.eye(4)[[0, 0, 1, 2, 3]].clone().requires_grad_()
    (gradient,) = torch.autograd.grad(rkd.rkd_loss(student, torch.randn(5, 4)), student)
    assert gradient.abs().max() < 100


def test_maps_of_zeros_stay_finite():
    student = torch.zeros(2, 3, 4, 4, requires_grad=True)
    for p in (1, 2):
        value = at.at_loss([student], [torch.randn(2, 3, 4, 4)], p)
        assert value.isfinite() and torch.autograd.grad(value, student)[0].isfinite().all()


MINIMA = {
    "dkd": lambda s, t: dkd.dkd_loss(s, t, torch.tensor([0, 1, 2, 3, 4, 0]), 1.0, 8.0, 4.0),
    "dist": lambda s, t: dist.dist_loss(s, t, 1.0, 1.0, 2.0),
    "rkd": rkd.rkd_loss,
    "cc": cc.cc_loss,
    "sp": sp.sp_loss,
    "pkt": pkt.pkt_loss,
    "at": lambda s, t: at.at_loss([s.view(6, 1, 1, 5)], [t.view(6, 1, 1, 5)]),
}


@pytest.mark.parametrize("name", MINIMA)
def test_least_where_student_and_teacher_agree(name):
    teacher, other = tensors(TEACHER, STUDENT)
    student = teacher.clone().requires_grad_()
    value = MINIMA[name](student, teacher)
    (gradient,) = torch.autograd.grad(value, student)
    # DIST adds its epsilon to the product of lengths, so that the best correlation is a little below 1.
    assert value.item() == pytest.approx(0, abs=1e-5) and gradient.abs().max() < 1e-5
    for step in (0.01, 0.1, 1.0):
        assert MINIMA[name](teacher + step * other, teacher) > value


def test_vid_is_least_at_the_teacher_and_its_own_spread():
    teacher = torch.randn(50, 2, 4, 4, dtype=torch.float64)
    residual = 0.3 * torch.randn_like(teacher)
    variance = residual.square().mean((0, 2, 3)).requires_grad_()
    (gradient,) = torch.autograd.grad(vid.vid_loss(teacher + residual, variance, teacher), variance)
    assert gradient.abs().max() < 1e-12
    fixed = variance.detach()
    assert vid.vid_loss(teacher, fixed, teacher) < vid.vid_loss(teacher + residual, fixed, teacher)


def test_no_gradient_reaches_the_teacher():
    logits, teacher_logits, feature, teacher_feature = (torch.randn(6, 5, requires_grad=True) for _ in range(4))
    maps, teacher_maps = (torch.randn(6, 3, 4, 4, requires_grad=True) for _ in range(2))
    values = [
        dkd.dkd_loss(logits, teacher_logits, torch.from_numpy(TARGET), 1.0, 2.0, 1.0),
        dist.dist_loss(logits, teacher_logits, 1.0, 1.0, 1.0),
        rkd.rkd_loss(feature, teacher_feature),
        sp.sp_loss(feature, teacher_feature),
        pkt.pkt_loss(feature, teacher_feature),
        at.at_loss([maps], [teacher_maps]),
        vid.vid_loss(maps, torch.ones(3), teacher_maps),
    ]
    sum(values).backward()
    assert all(x.grad is None for x in (teacher_logits, teacher_feature, teacher_maps))
    assert all(x.grad is not None for x in (logits, feature, maps))


def test_cc_trains_both_embeddings():
    student, teacher = (torch.randn(6, 5, requires_grad=True) for _ in range(2))
    cc.cc_loss(student, teacher).backward()
    torch.testing.assert_close(student.grad, -teacher.grad)


def test_dkd_reads_the_arg_max_of_soft_labels():
    student, teacher, target = tensors(STUDENT, TEACHER, TARGET)
    soft = 0.6 * F.one_hot(target, 5) + 0.08
    assert dkd.dkd_loss(student, teacher, soft, 1.0, 2.0, 1.0) == dkd.dkd_loss(student, teacher, target, 1.0, 2.0, 1.0)


# --------------------------------------------------------------------------------------------------------- invariances


def rotation(width):
    return torch.linalg.qr(torch.randn(width, width, dtype=torch.float64)).Q


def test_rkd_does_not_see_isometries_or_scale():
    student, teacher = tensors(STUDENT_FEATURE, TEACHER_FEATURE)
    value = rkd.rkd_loss(student, teacher)
    moved = 3 * student @ rotation(7) + 5
    assert rkd.rkd_loss(moved, teacher).item() == pytest.approx(value.item(), rel=1e-9)
    assert rkd.rkd_loss(student, 0.1 * teacher @ rotation(4) - 2).item() == pytest.approx(value.item(), rel=1e-9)
    assert rkd.rkd_loss(moved, student).item() == pytest.approx(0, abs=1e-20)
    stretched = student * torch.linspace(1, 3, 7, dtype=torch.float64)
    assert rkd.rkd_loss(stretched, teacher).item() != pytest.approx(value.item(), rel=1e-3)


def test_dist_does_not_see_affine_maps_of_probabilities():
    student, teacher = tensors(STUDENT, TEACHER)
    value = dist.dist_loss(student, teacher, 1.0, 1.0, 1.0)
    flattened = (0.3 * student.softmax(1) + 0.7 / 5).log()
    assert dist.dist_loss(flattened, teacher, 1.0, 1.0, 1.0).item() == pytest.approx(value.item(), rel=1e-5)
    torch.testing.assert_close(dist.pearson(3 * student + 2, teacher), dist.pearson(student, teacher))
    torch.testing.assert_close(dist.pearson(-student, teacher), -dist.pearson(student, teacher))
    shifted = student + torch.arange(6)[:, None]
    torch.testing.assert_close(dist.dist_loss(shifted, teacher, 1.0, 1.0, 1.0), value)


def test_pkt_does_not_see_the_scale_of_a_sample():
    student, teacher = tensors(STUDENT_FEATURE, TEACHER_FEATURE)
    scales = torch.linspace(0.5, 20, 6, dtype=torch.float64)[:, None]
    value = pkt.pkt_loss(student, teacher).item()
    assert pkt.pkt_loss(scales * student @ rotation(7), teacher).item() == pytest.approx(value, rel=1e-5)
    assert pkt.pkt_loss(student, scales * teacher).item() == pytest.approx(value, rel=1e-5)


def test_sp_does_not_see_rotations_or_the_overall_scale():
    student, teacher = tensors(STUDENT_FEATURE, TEACHER_FEATURE)
    value = sp.sp_loss(student, teacher).item()
    assert sp.sp_loss(4 * student @ rotation(7), teacher).item() == pytest.approx(value)


def test_at_does_not_see_signs_channels_or_scale():
    student, teacher = torch.randn(2, 3, 6, 4, 4, dtype=torch.float64)
    value = at.at_loss([student], [teacher])
    torch.testing.assert_close(at.at_loss([-5 * student.flip(1)], [teacher]), value)


@pytest.mark.parametrize("loss", [rkd.rkd_loss, sp.sp_loss, pkt.pkt_loss])
def test_the_order_of_the_batch_does_not_count(loss):
    student, teacher = tensors(STUDENT_FEATURE, TEACHER_FEATURE)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    torch.testing.assert_close(loss(student[order], teacher[order]), loss(student, teacher))


def test_cc_depends_on_the_order_of_the_batch():
    student, teacher = tensors(STUDENT_FEATURE[:, :4], TEACHER_FEATURE)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    value = cc.cc_loss(student, teacher)
    assert cc.cc_loss(student[order], teacher[order]).item() != pytest.approx(value.item(), rel=1e-3)
    torch.testing.assert_close(cc.cc_loss(student.flip(0), teacher.flip(0)), value)
    # The last sample meets its predecessor only: without a difference there, it counts for nothing.
    teacher[4] = student[4]
    elsewhere = student.clone()
    elsewhere[5] += 10
    assert cc.cc_loss(elsewhere, teacher) == cc.cc_loss(student, teacher)


# --------------------------------------------------------------------------------------------------------- conformance


def check_signals_are_reached(ours, distiller):
    needed = distiller.needs(distiller.params)
    if "pooled" in needed:
        assert ours.pooled.grad.any()
    if "stages" in needed:
        used = ours.stages[-1:] if isinstance(distiller, sp.Method) else ours.stages
        assert all(stage.grad.any() for stage in used)
    assert all(p.grad.any() for p in distiller.parameters())


@pytest.mark.parametrize("teacher", FAMILIES)
@pytest.mark.parametrize("student", FAMILIES)
@pytest.mark.parametrize(("name", "changes"), SETTINGS_OF_METHODS, ids=IDS)
def test_conformance(name, changes, student, teacher):
    check_signals_are_reached(*conforms(name, changes, student, teacher))


@pytest.mark.parametrize(
    ("student", "teacher"),
    [
        ("cnn 1x1", "vit"),
        ("vit", "cnn 1x1"),
        ("swin", "cnn"),
        ("registers", "mlp"),
        ("sequence", "cnn"),
        ("sequence cnn", "sequence"),
    ],
)
@pytest.mark.parametrize("name", VARIANTS)
def test_odd_shapes(name, student, teacher):
    conforms(name, {}, student, teacher)


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("student", FAMILIES)
def test_bf16_signals_inside_and_outside_autocast(name, student):
    conforms(name, {}, student, "cnn", dtype=torch.bfloat16)
    outside = terms(name, student=student, teacher="cnn", dtype=torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        conforms(name, {}, student, "cnn", dtype=torch.bfloat16)
        assert terms(name, student=student, teacher="cnn", dtype=torch.bfloat16) == outside


def terms(name, progress=0.0, student="cnn", teacher="mlp", dtype=torch.float32, **changes):
    distiller = build(name, changes, student, teacher)
    return distiller(signals(SIDES[student], dtype=dtype), signals(SIDES[teacher], dtype=dtype, seed=1), HARD, progress)


@pytest.mark.parametrize("name", ["rkd", "cc", "sp", "pkt", "at", "vid"])
def test_feature_losses_run_with_and_without_kd(name):
    assert set(terms(name)) == {"ce", name}
    with_kd = terms(name, kd_weight=0.5, temperature=2.0)
    assert set(with_kd) == {"ce", name, "kd"}
    expected = 0.5 * kd_loss(signals(SIDES["cnn"]).logits, signals(SIDES["mlp"], seed=1).logits, 2.0)
    assert with_kd["kd"].item() == pytest.approx(expected.item())


@pytest.mark.parametrize("name", VARIANTS)
def test_the_main_weight_scales_the_methods_own_term(name):
    module = importlib.import_module(f"kdbench.methods.{name}")
    changes = {"alpha": 0.0} if name == "dkd" else {}
    once = module.Params(**changes)
    twice = replace(once, **{module.MAIN_WEIGHT: 2 * getattr(once, module.MAIN_WEIGHT)})
    doubled = terms(name, **changes, **{module.MAIN_WEIGHT: getattr(twice, module.MAIN_WEIGHT)})
    assert doubled[name].item() == pytest.approx(2 * terms(name, **changes)[name].item(), rel=1e-5)


@pytest.mark.parametrize("name", VARIANTS)
def test_presets_are_parameters(name):
    module = importlib.import_module(f"kdbench.methods.{name}")
    info = registry.method_info(name)
    for preset in getattr(module, "PRESETS", {}).values():
        checked = {key: info.params[key].check(value, key) for key, value in preset.items()}
        registry.check_params(name, checked, name)
        assert all(getattr(module.Params(), key) != value for key, value in checked.items())


def test_dkd_warms_up():
    whole = terms("dkd", 0.5)["dkd"].item()
    assert terms("dkd", 0.05, warmup=0.2)["dkd"].item() == pytest.approx(whole / 4)
    assert terms("dkd", 0.0, warmup=0.2)["dkd"].item() == 0
    assert terms("dkd", 0.3, warmup=0.2)["dkd"].item() == pytest.approx(whole)


def test_vid_variance_starts_where_it_is_told():
    for changes, value in (({}, 5.0), ({"initial_variance": 0.1}, 0.1)):
        for stage in build("vid", changes, "vit", "cnn").stages:
            torch.testing.assert_close(stage.variance, torch.full_like(stage.variance, value))


def test_cc_embeds_both_sides():
    distiller = build("cc", {}, "vit", "mlp")
    assert (distiller.embed_student.in_features, distiller.embed_teacher.in_features) == (16, 24)
    assert distiller.embed_student.out_features == distiller.embed_teacher.out_features == 128


def test_at_tells_of_stages_of_one_cell():
    assert build("at", {}, "cnn", "vit").notes() == []
    assert build("at", {}, "cnn 1x1", "vit").notes() == [
        "the coarser grid has one cell, so the term is 0, at stage 4",
    ]


@pytest.mark.parametrize("name", ["sp", "at", "vid"])
def test_networks_of_few_stages_are_refused_with_a_reason(name):
    method = importlib.import_module(f"kdbench.methods.{name}").Method
    few, whole = replace(SIDES["cnn"], stages=()), SIDES["vit"]
    for student, teacher, side in ((few, whole, "student"), (whole, few, "teacher")):
        reason = method.supports(method.Params(), PairShapes(student, teacher, CLASSES, (0,)))
        assert reason == f"the {side} shows fewer than four stages"
    pooled = sp.Params(feature="pooled")
    assert sp.Method.supports(pooled, PairShapes(few, few, CLASSES, (0,))) is None


@pytest.mark.parametrize("name", VARIANTS)
def test_a_temperature_of_0_is_refused(name):
    with pytest.raises(KdbenchError, match="temperature must be above 0"):
        importlib.import_module(f"kdbench.methods.{name}").Params(temperature=0.0)


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: dkd.Params(warmup=20.0), "share of the training"),
        (lambda: cc.Params(width=0), "width"),
        (lambda: at.Params(p=0), "p must be at least 1"),
        (lambda: vid.Params(initial_variance=0.0), "initial_variance"),
    ],
)
def test_impossible_settings_are_refused(make, complaint):
    with pytest.raises(KdbenchError, match=complaint):
        make()
