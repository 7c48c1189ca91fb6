"""FitNet, CRD, RSD, PKD and MFH: losses against golden values and independent formulas, conformance, properties."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from builders import BATCH, CLASSES, FAMILIES, SIDES, build, conforms, only, signals, tensors
from test_losses import CASES, GOLDENS, SETTINGS, given

from kdbench.methods import crd, fitnet, mfh, pkd, rsd
from kdbench.types import KdbenchError, PairShapes

TARGET = torch.arange(BATCH) % CLASSES

VARIANTS = {
    "fitnet": [{}, *fitnet.PRESETS.values()],
    "crd": [{}, {"negatives": 7, "width": 16, "tau": 0.2, "momentum": 0.0}, crd.PRESETS["mdistiller"]],
    "rsd": [{}, {"kappa": 0.1, "kd_weight": 1.0}],
    "pkd": [{}, {"feature": "map"}, {"kd_weight": 1.0}],
}
VARIED = [(name, changes) for name, variants in VARIANTS.items() for changes in variants]


def expect(actual, case, name, tolerance):
    expected = GOLDENS[f"{case}/out/{name}"]
    actual = actual.detach().numpy()
    np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance * abs(expected).max(), err_msg=name)


# ----------------------------------------------------------------------------------------------------------------- rsd


@pytest.mark.parametrize("case", CASES)
def test_rsd_golden(case):
    student, teacher = given(case, "rsd_student_projected", "rsd_teacher_feature")
    value = rsd.rsd_loss(student.requires_grad_(), teacher, SETTINGS[case]["rsd_kappa"])
    expect(value, case, "rsd.loss", 1e-9)
    expect(torch.autograd.grad(value, student)[0], case, "rsd.grad.student_projected", 1e-9)


def test_rsd_is_numpys():
    s, t = np.random.default_rng(0).normal(size=(2, 7, 4))
    s_std, t_std = ((x - x.mean(0)) / (x.std(0) + 1e-5) for x in (s, t))
    matrix = np.array([[np.mean(t_std[:, i] * s_std[:, j]) for j in range(4)] for i in range(4)])
    expected = sum((matrix[i, j] - (i == j)) ** 2 * (1 if i == j else 0.3) for i in range(4) for j in range(4))
    assert rsd.rsd_loss(torch.from_numpy(s), torch.from_numpy(t), 0.3).item() == pytest.approx(expected)


def test_rsd_is_least_where_uncorrelated_channels_agree_up_to_scale_and_offset():
    signs = torch.tensor([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]], dtype=torch.float64)
    assert rsd.rsd_loss(3 * signs + 2, signs, 1.0) < 1e-8
    assert rsd.rsd_loss(-signs, signs, 1.0).item() == pytest.approx(12, rel=1e-3)
    assert rsd.rsd_loss(signs[:, [1, 0, 2]], signs, 0.0).item() == pytest.approx(2, rel=1e-3)


def test_rsd_of_a_constant_channel_is_finite():
    student = torch.ones(6, 3, requires_grad=True)
    value = rsd.rsd_loss(student, torch.randn(6, 3), 0.01)
    assert value.isfinite() and torch.autograd.grad(value, student)[0].isfinite().all()


def test_rsd_projector_is_the_released_one():
    layers = rsd.projector(10, 6)
    assert [tuple(p.shape) for p in layers.parameters()] == [(20, 10), (20,), (20,), (6, 20)]
    assert layers[0].weight.abs().max() < 0.1 and layers[3].weight.std().item() == pytest.approx(0.02, rel=0.3)


# ----------------------------------------------------------------------------------------------------------------- pkd


@pytest.mark.parametrize("shape", [(5, 3, 2, 4), (5, 3)])
def test_pkd_is_numpys(shape):
    s, t = np.random.default_rng(0).normal(size=(2, *shape)) * 3 + 1
    axes = (0, *range(2, len(shape)))

    def standard(x):
        return (x - x.mean(axes, keepdims=True)) / (x.std(axes, keepdims=True, ddof=1) + 1e-6)

    expected = ((standard(s) - standard(t)) ** 2).mean() / 2
    assert pkd.pkd_loss(torch.from_numpy(s), torch.from_numpy(t)).item() == pytest.approx(expected)
    numbers = np.prod([shape[axis] for axis in axes])
    correlations = [np.corrcoef(s[:, c].ravel(), t[:, c].ravel())[0, 1] for c in range(3)]
    one_minus_r = (1 - np.mean(correlations)) * (numbers - 1) / numbers
    assert expected == pytest.approx(one_minus_r, rel=1e-4)


def test_pkd_is_blind_to_scale_and_offset_of_channels_and_least_at_the_teacher():
    student, teacher = torch.randn(2, 4, 3, 5, 5, dtype=torch.float64)
    scale, offset = torch.tensor([0.5, 2, 9]).view(3, 1, 1).double(), torch.randn(3, 1, 1).double()
    moved = pkd.pkd_loss(scale * student + offset, teacher)
    assert moved.item() == pytest.approx(pkd.pkd_loss(student, teacher).item(), rel=1e-5)
    assert pkd.pkd_loss(scale * teacher + offset, teacher) < 1e-10


def test_pkd_resizes_the_student_where_any_size_differs():
    student, teacher = torch.randn(2, 3, 4, 8), torch.randn(2, 3, 4, 6)
    resized = F.interpolate(student, (4, 6), mode="bilinear")
    assert pkd.pkd_loss(student, teacher) == pkd.pkd_loss(resized, teacher)


def test_pkd_tells_of_its_projector():
    assert build("pkd", {}, "cnn", "mlp").notes() == []
    assert "a Linear takes the student's feature from 16 to 24" in build("pkd", {}, "vit", "mlp").notes()[0]
    assert "a 1x1 convolution" in build("pkd", {"feature": "map"}, "vit", "mlp").notes()[0]


# -------------------------------------------------------------------------------------------------------------- fitnet


def test_fitnet_loss_is_the_mean_square():
    s, t = np.random.default_rng(0).normal(size=(2, 3, 2, 4, 4))
    assert fitnet.fitnet_loss(torch.from_numpy(s), torch.from_numpy(t)).item() == pytest.approx(((s - t) ** 2).mean())
    assert fitnet.fitnet_loss(torch.from_numpy(t), torch.from_numpy(t)) == 0


@pytest.mark.parametrize("tokens", [True, False])
@pytest.mark.parametrize(
    ("own", "wanted", "exact"),
    [
        ((64, 56, 56), (48, 14, 14), True),
        ((32, 7, 7), (48, 14, 14), True),
        ((8, 14, 14), (6, 14, 14), True),
        ((8, 16, 16), (6, 7, 7), False),
        ((8, 7, 7), (6, 8, 8), False),
        ((8, 15, 15), (6, 8, 8), False),
        ((8, 1, 65), (6, 8, 8), False),
        ((8, 8, 8), (6, 1, 65), False),
        ((8, 1, 64), (6, 8, 8), True),
    ],
)
def test_projector_serves_any_two_grids(own, wanted, exact, tokens):
    projector = fitnet.Projector(own, wanted, tokens, bias=True)
    assert projector(torch.randn(2, *own)).shape == (2, *wanted)
    assert projector.exact is exact


def test_projector_of_a_coarser_student_unfolds_cells_in_space():
    projector = fitnet.Projector((1, 2, 2), (1, 4, 4), tokens=False, bias=False)
    with torch.no_grad():
        projector.convolution.weight.copy_(torch.arange(4.0).view(4, 1, 1, 1))
        out = projector(torch.tensor([[[[0.0, 10], [0, 0]]]]))
    assert out[0, 0].tolist() == [[0, 0, 0, 10], [0, 0, 20, 30], [0, 0, 0, 0], [0, 0, 0, 0]]


def test_projector_of_finer_tokens_is_merging_and_a_linear():
    projector = fitnet.Projector((3, 4, 4), (5, 2, 2), tokens=True, bias=True)
    maps = torch.randn(2, 3, 4, 4)
    merged = maps.unflatten(3, (2, 2)).unflatten(2, (2, 2)).permute(0, 2, 4, 1, 3, 5).flatten(3)
    linear = merged @ projector.convolution.weight.flatten(1).T + projector.convolution.bias
    torch.testing.assert_close(projector(maps), linear.permute(0, 3, 1, 2))


def test_fitnet_projectors_have_a_bias_but_between_cnns():
    assert all(p.convolution.bias is None for p in build("fitnet", {}, "cnn", "cnn").projectors.values())
    assert all(p.convolution.bias is not None for p in build("fitnet", {}, "cnn", "vit").projectors.values())
    assert build("fitnet", {}, "cnn", "cnn").notes() == []
    assert "at stage 1, 2, 3, 4" in build("fitnet", {}, "mlp", "vit").notes()[0]


def test_fitnet_terms():
    def terms(**changes):
        distiller = build("fitnet", changes, "cnn", "cnn")
        return distiller(signals(SIDES["cnn"]), signals(SIDES["cnn"], seed=1), TARGET, 0.0)

    assert set(terms()) == {"ce", "fitnet"} and set(terms(kd_weight=1.0)) == {"ce", "fitnet", "kd"}
    assert terms(weight=3.0)["fitnet"].item() == pytest.approx(3 * terms()["fitnet"].item())


def test_the_hint_regressor_is_mdistillers_or_a_reason():
    layers = [fitnet.regressor((8, n, n), (6, 8, 8))[0] for n in (16, 4, 10)]
    assert [(type(layer).__name__, layer.kernel_size[0]) for layer in layers] == [
        ("Conv2d", 3),
        ("ConvTranspose2d", 4),
        ("Conv2d", 3),
    ]
    pair = PairShapes(SIDES["mlp"], SIDES["cnn"], CLASSES, (0, 1))
    assert "no form from 7x7 to 8x8" in fitnet.Method.supports(fitnet.Params(variant="hint"), pair)


def test_fewer_than_four_stages_is_a_reason():
    short = replace(SIDES["cnn"], stages=SIDES["cnn"].stages[:3])
    for sides in ((short, SIDES["vit"]), (SIDES["vit"], short)):
        assert "fewer than four" in fitnet.Method.supports(fitnet.Params(), PairShapes(*sides, CLASSES, (0, 1)))
    none = PairShapes(SIDES["cnn"], replace(short, stages=()), CLASSES, (0, 1))
    assert "no stages" in pkd.Method.supports(pkd.Params(feature="map"), none)
    assert pkd.Method.supports(pkd.Params(), none) is None


# ----------------------------------------------------------------------------------------------------------------- crd


def golden_memory(case):
    settings = SETTINGS[case]
    student, teacher = given(case, "crd_memory_student", "crd_memory_teacher")
    memory = crd.ContrastMemory(settings["crd_N"], student.shape[1], settings["crd_T"], settings["crd_m"]).double()
    memory.memory_student, memory.memory_teacher = student, teacher
    return memory


@pytest.mark.parametrize("case", CASES)
def test_crd_golden(case):
    student, teacher, *indices = given(
        case, "crd_student_embedding", "crd_teacher_embedding", "crd_index", "crd_contrast_index"
    )
    memory = golden_memory(case)
    value = memory(student.requires_grad_(), teacher.requires_grad_(), *indices)
    expect(value, case, "crd.loss", 1e-6)
    gradients = torch.autograd.grad(value, (student, teacher))
    for side, gradient in zip(("student", "teacher"), gradients, strict=True):
        expect(gradient, case, f"crd.grad.{side}_embedding", 1e-6)
        expect(getattr(memory, f"normaliser_{side}"), case, f"crd.Z_{side}", 1e-6)
    expect(memory(student, teacher, *indices), case, "crd.loss_second_call", 1e-6)
    # The golden banks are those after the second call.
    for side in ("student", "teacher"):
        expect(getattr(memory, f"memory_{side}"), case, f"crd.memory_{side}_after", 1e-6)


def test_crd_is_numpys():
    rng = np.random.default_rng(0)
    s, t, bank_s, bank_t = (rng.normal(size=(n, 4)) / 2 for n in (3, 3, 10, 10))
    index, chosen = np.array([5, 0, 7]), np.array([[5, 1, 1, 9], [0, 2, 3, 4], [7, 6, 8, 8]])

    def direction(embedding, bank):
        score = np.exp(np.einsum("bd,bkd->bk", embedding, bank[chosen]) / 0.3)
        p, noise = score / (score.mean() * 10), 3 / 10
        return -(np.log(p[:, 0] / (p[:, 0] + noise)).sum() + np.log(noise / (p[:, 1:] + noise)).sum()) / 3

    memory = crd.ContrastMemory(10, 4, 0.3, 0.5).double()
    memory.memory_student, memory.memory_teacher = torch.from_numpy(bank_s), torch.from_numpy(bank_t)
    value = memory(*(torch.from_numpy(x) for x in (s, t, index, chosen)))
    assert value.item() == pytest.approx(direction(s, bank_t) + direction(t, bank_s), rel=1e-5)
    unseen = [i for i in range(10) if i not in index]
    np.testing.assert_array_equal(memory.memory_student[unseen].numpy(), bank_s[unseen])


def test_negatives_are_of_other_classes_and_all_equally_likely():
    labels = (2, 0, 1, 1, 0, 2, 1, 1, 0, 1, 3)
    draw = crd.Negatives(labels, classes=5)
    torch.manual_seed(0)
    index = torch.arange(len(labels))
    drawn = draw(index, 8000)
    label = torch.tensor(labels)
    for i in index.tolist():
        others = (label != label[i]).nonzero().flatten()
        counts = drawn[i].bincount(minlength=len(labels))
        assert counts[label == label[i]].sum() == 0
        assert (counts[others] / 8000 * len(others) - 1).abs().max() < 0.15


def test_crd_caps_its_negatives_and_says_so():
    assert build("crd", {}, "cnn", "vit").negatives == 80
    assert build("crd", {}, "cnn", "vit").notes() == [
        "80 negatives a sample in place of 16384: the training set has no more"
    ]
    assert build("crd", {"negatives": 80}, "cnn", "vit").notes() == []
    one_class = PairShapes(SIDES["cnn"], SIDES["vit"], CLASSES, (3, 3, 3))
    assert "no negatives" in crd.Method.supports(crd.Params(), one_class)


def test_crd_goes_on_exactly_from_its_state():
    def step(distiller, seed):
        torch.manual_seed(seed)
        ours, theirs = signals(SIDES["cnn"], seed=seed), signals(SIDES["vit"], seed=seed + 50)
        return distiller(ours, theirs, TARGET, 0.5)["crd"]

    first = build("crd", {}, "cnn", "vit")
    step(first, 1)
    state = {name: value.clone() for name, value in first.state_dict().items()}
    second = build("crd", {}, "cnn", "vit")
    second.load_state_dict(state)
    assert torch.equal(step(first, 2), step(second, 2))
    assert torch.equal(first.contrast.memory_teacher, second.contrast.memory_teacher)
    assert not torch.equal(state["contrast.memory_teacher"], first.contrast.memory_teacher)
    assert torch.equal(state["contrast.normaliser_student"], first.contrast.normaliser_student)


# ----------------------------------------------------------------------------------------------------------------- mfh


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
    for target in (TARGET, 0.7 * F.one_hot(TARGET, CLASSES) + 0.06):
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
    early = distiller(ours, theirs, TARGET, 0.2)
    assert early["mfh"] == 0 and early["ce"] > 0 and (distiller.saliency > 0).all()
    measured = distiller.saliency.clone()
    assert torch.equal(distiller.state_dict()["saliency"], measured)
    late = distiller(ours, theirs, TARGET, 0.25)
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
    assert distiller(ours, theirs, TARGET, 0.0)["mfh"].item() == pytest.approx(expected)
    assert "whatever their saliency" in distiller.notes()[0]


def test_mfh_adopts_a_linear_classifier_only():
    teacher = Teacher(16)
    teacher.fc = torch.nn.Conv2d(16, CLASSES, 1)
    distiller = mfh.Method(mfh.Params(), PairShapes(SIDES["cnn"], SIDES["vit"], CLASSES, (0, 1)))
    with pytest.raises(KdbenchError, match="not one Linear"):
        distiller.adopt(teacher, None)


# ------------------------------------------------------------------------------------------------------------- all five


def served(name, changes, student, teacher):
    module = {"fitnet": fitnet, "crd": crd, "rsd": rsd, "pkd": pkd}[name]
    pair = PairShapes(SIDES[student], SIDES[teacher], CLASSES, (0, 1))
    return module.Method.supports(module.Params(**changes), pair) is None


@pytest.mark.parametrize("teacher", FAMILIES)
@pytest.mark.parametrize("student", FAMILIES)
@pytest.mark.parametrize(("name", "changes"), VARIED)
def test_conformance(name, changes, student, teacher):
    if not served(name, changes, student, teacher):
        assert name == "fitnet" and (student, teacher) in {("mlp", "cnn"), ("mlp", "vit")}
        return
    ours, distiller = conforms(name, changes, student, teacher)
    needed = distiller.needs(distiller.params)
    if "pooled" in needed:
        assert ours.pooled.grad.any()
    if name == "fitnet":
        stages = ours.stages if distiller.params.variant == "stages" else ours.stages[1:2]
        assert all(stage.grad.any() for stage in stages)
    if changes.get("feature") == "map":
        assert ours.stages[-1].grad.any()


@pytest.mark.parametrize(
    ("student", "teacher"),
    [
        ("cnn 1x1", "vit"),
        ("vit", "cnn 1x1"),
        ("swin", "cnn"),
        ("cnn", "swin"),
        ("registers", "mlp"),
        ("sequence", "cnn"),
        ("cnn", "sequence"),
        ("sequence cnn", "sequence"),
        ("sequence", "sequence cnn"),
    ],
)
@pytest.mark.parametrize("name", ["fitnet", "crd", "rsd", "pkd"])
def test_odd_shapes(name, student, teacher):
    conforms(name, {"feature": "map"} if name == "pkd" else {}, student, teacher)


@pytest.mark.parametrize("student", FAMILIES)
@pytest.mark.parametrize(("name", "changes"), VARIED)
def test_bf16_signals_inside_and_outside_autocast(name, changes, student):
    if served(name, changes, student, "cnn"):
        conforms(name, changes, student, "cnn", dtype=torch.bfloat16)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            conforms(name, changes, student, "cnn", dtype=torch.bfloat16)


def test_no_gradient_reaches_the_teacher():
    student, teacher = torch.randn(6, 5, requires_grad=True), torch.randn(6, 5, requires_grad=True)
    losses = rsd.rsd_loss, pkd.pkd_loss, fitnet.fitnet_loss, mfh.mfh_loss
    sum(loss(student, teacher) for loss in losses).backward()
    assert teacher.grad is None and student.grad.isfinite().all()


@pytest.mark.parametrize(
    ("module", "changes", "complaint"),
    [
        (fitnet, {"temperature": 0.0}, "above 0"),
        (crd, {"negatives": 0}, "above 0"),
        (crd, {"momentum": 1.0}, "below 1"),
        (crd, {"tau": 0.0}, "above 0"),
        (rsd, {"kappa": -1.0}, "negative"),
        (rsd, {"temperature": 0.0}, "above 0"),
        (pkd, {"temperature": -1.0}, "above 0"),
        (mfh, {"keep": 0.0}, "keep"),
        (mfh, {"mask": "fixed_half", "keep": 0.25}, "keep must be 0.5"),
        (mfh, {"permutations": 0}, "permutations"),
        (mfh, {"measure_share": 1.0}, "between 0 and 1"),
    ],
)
def test_meaningless_parameters_are_refused(module, changes, complaint):
    with pytest.raises(KdbenchError, match=complaint):
        module.Params(**changes)
