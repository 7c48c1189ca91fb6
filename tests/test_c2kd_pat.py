"""C2KD and PAT: golden values, formulas of their own, and what their adopted teachers do."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from builders import adopted
from conftest import run_jobs, tiny_plan
from test_losses import CASES, GOLDENS, SETTINGS, given, softmax
from test_models import SMALL, spec

from kdbench.conformance import check
from kdbench.conformance.networks import ALL_PAIRS, CLASSES, LABELS, MODELS
from kdbench.methods import c2kd, pat
from kdbench.results.record import read_run
from kdbench.signals import Reader
from kdbench.train import networks
from kdbench.types import KdbenchError, PairShapes

RNG = np.random.default_rng(0)
STUDENT, TEACHER = RNG.normal(size=(2, 7, 5)) * 3
TARGET = np.array([0, 4, 2, 2, 1, 3, 0])


def tensors(*arrays):
    return [torch.from_numpy(a) for a in arrays]


# ----------------------------------------------------------------------------------------------------------------- c2kd


@pytest.mark.parametrize("case", CASES)
def test_ntkl_golden(case):
    student, teacher, target = given(case, "student_logits", "teacher_logits", "target")
    student.requires_grad_()
    tau = c2kd.kendall_tau(student, teacher)
    np.testing.assert_allclose(tau.numpy(), GOLDENS[f"{case}/out/c2kd.kendall"], rtol=1e-9, atol=1e-12)
    value = c2kd.ntkl_loss(student, teacher, target, SETTINGS[case]["c2kd_krc"])
    (gradient,) = torch.autograd.grad(value, student)
    np.testing.assert_allclose(value.item(), GOLDENS[f"{case}/out/c2kd_ntkl.loss"], rtol=1e-9)
    expected = GOLDENS[f"{case}/out/c2kd_ntkl.grad.student_logits"]
    np.testing.assert_allclose(gradient.numpy(), expected, rtol=1e-9, atol=1e-9 * abs(expected).max())


def test_kendall_tau_is_scipys_with_ties():
    stats = pytest.importorskip("scipy.stats")
    a, b = RNG.integers(0, 4, size=(2, 9, 6)).astype(float)
    a[3] = 1.0
    expected = [stats.kendalltau(x, y)[0] for x, y in zip(a, b, strict=True)]
    np.testing.assert_allclose(c2kd.kendall_tau(*tensors(a, b)).numpy(), expected, rtol=1e-12)


def numpys_tau(a, b):
    pairs = [(i, j) for i in range(len(a)) for j in range(i)]
    return sum(np.sign(a[i] - a[j]) * np.sign(b[i] - b[j]) for i, j in pairs) / len(pairs)


@pytest.mark.parametrize("threshold", [-1.0, 0.0, 0.3])
@pytest.mark.parametrize("masking", ["zero", "minus_1000"])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_ntkl_is_numpys(threshold, masking, temperature):
    s, t = STUDENT.copy(), TEACHER.copy()
    for logits in (s, t):
        rows = np.arange(7), TARGET
        logits[rows] = 0 if masking == "zero" else logits[rows] - 1000
    p, q = softmax(t / temperature) + 1e-300, softmax(s / temperature) + 1e-300
    chosen = np.array([numpys_tau(*rows) > threshold for rows in zip(STUDENT, TEACHER, strict=True)])
    expected = temperature**2 * (chosen * (p * np.log(p / q)).sum(1)).mean()
    value = c2kd.ntkl_loss(*tensors(STUDENT, TEACHER, TARGET), threshold, masking, temperature)
    assert value.item() == pytest.approx(expected, rel=1e-9)


def test_ntkl_counts_the_whole_batch_and_no_sample_is_zero():
    student, teacher, target = tensors(STUDENT, TEACHER, TARGET)
    student.requires_grad_()
    assert c2kd.ntkl_loss(student, teacher, target, 0.99).item() == 0
    assert c2kd.kendall_tau(student, student).tolist() == pytest.approx([1.0] * 7)
    # A student that ranks as the teacher does: every sample counts, until half of the batch ranks in reverse.
    alike = c2kd.ntkl_loss(2 * teacher, teacher, target, 0.0)
    half = torch.cat([2 * teacher, -teacher])
    halved = c2kd.ntkl_loss(half, torch.cat([teacher, teacher]), torch.cat([target, target]), 0.0)
    assert halved.item() == pytest.approx(alike.item() / 2)


@pytest.mark.parametrize("masking", ["zero", "minus_1000"])
def test_ntkl_does_not_see_the_target_and_is_least_at_the_teacher(masking):
    student, teacher, target = tensors(STUDENT, TEACHER, TARGET)
    value = c2kd.ntkl_loss(student, teacher, target, -1.0, masking)
    # Where tau selects everything, the target's own logit plays no part (up to exp(-1000)).
    moved = student.clone()
    moved[torch.arange(7), target] += 0.5
    assert c2kd.ntkl_loss(moved, teacher, target, -1.0, masking).item() == pytest.approx(value.item(), rel=1e-9)
    own = teacher.clone().requires_grad_()
    value = c2kd.ntkl_loss(own, teacher, target, 0.0, masking)
    (gradient,) = torch.autograd.grad(value, own)
    assert abs(value.item()) < 1e-12 and gradient.abs().max() < 1e-12
    soft = 0.6 * F.one_hot(target, 5) + 0.08
    assert c2kd.ntkl_loss(student, teacher, soft, 0.0, masking) == c2kd.ntkl_loss(
        student, teacher, target, 0.0, masking
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("masking", ["zero", "minus_1000"])
def test_ntkl_of_logit_gaps_of_200_is_finite(dtype, masking):
    student = torch.tensor([[200.0, 0, 0], [0, 200, 1], [0, 0, -200]], dtype=dtype, requires_grad=True)
    teacher = torch.tensor([[1.0, 200, 0], [0, 200, 1], [-200, 0, 0]], dtype=dtype, requires_grad=True)
    value = c2kd.ntkl_loss(student, teacher, torch.tensor([2, 1, 0]), -1.0, masking)
    (gradient,) = torch.autograd.grad(value, student, retain_graph=True)
    assert value.dtype == torch.float32 and value.isfinite() and gradient.isfinite().all()
    assert torch.autograd.grad(value, teacher, allow_unused=True) == (None,)


def test_c2kds_terms_are_those_of_the_released_loss():
    distiller, ours, shown = adopted(c2kd, c2kd.Params(), MODELS["teacher-cnn"], MODELS["student-vit"])
    assert distiller.teacher.training and all(p.requires_grad for p in distiller.teacher.parameters())
    assert distiller.notes() == ["the teacher is trained too"]
    target = torch.arange(6) % 3
    distiller.eval()
    terms = distiller(ours, shown, target, 0.0)
    q_s, q_t = ours.logits, distiller._read(shown.inputs).logits
    p_s = distiller.student_proxy(ours.stages[2])
    p_t = distiller.teacher_proxy(distiller._read(shown.inputs).stages[2])

    def kl(learner, other):
        return F.kl_div(learner.log_softmax(1), other.softmax(1), reduction="batchmean").item()

    expected = {
        "ce": F.cross_entropy(q_s, target).item(),
        "ce_teacher": F.cross_entropy(q_t, target).item(),
        "ntkl": c2kd.ntkl_loss(p_s, p_t, target, 0.0).item(),
        "ntkl_teacher": c2kd.ntkl_loss(p_t, p_s, target, 0.0).item(),
        "kd": kl(q_s, p_s),
        "kd_proxy": kl(p_s, q_s),
        "kd_teacher": kl(q_t, p_t),
        "kd_teacher_proxy": kl(p_t, q_t),
    }
    assert {name: term.item() for name, term in terms.items()} == pytest.approx(expected, rel=1e-5)


def test_c2kds_proxies_read_the_third_stage_by_default():
    pair = [MODELS["teacher-cnn"], MODELS["student-cnn"]]
    third, fourth = (adopted(c2kd, c2kd.Params(stage=stage), *pair)[0] for stage in (3, 4))
    assert [d.teacher_proxy.layers[1].in_channels for d in (third, fourth)] == [16, 24]
    short = PairShapes(third.pair.student, dataclasses.replace(third.pair.teacher, stages=()), 3, LABELS)
    assert "the teacher shows fewer than four" in c2kd.Method.supports(c2kd.Params(), short)


# ------------------------------------------------------------------------------------------------------------------ pat


def numpys_hierarchy(s, t):
    total, weights = ((s - t) ** 2).mean(), 1.0
    for level, weight in ((4, 0.5), (2, 0.25), (1, 0.125)):
        cells = s.shape[-1] // level
        pooled = [x.reshape(*x.shape[:2], level, cells, level, cells).mean((3, 5)) for x in (s, t)]
        total, weights = total + weight * ((pooled[0] - pooled[1]) ** 2).mean(), weights + weight
    return total / weights


def test_hierarchical_mse_is_numpys():
    s, t = RNG.normal(size=(2, 3, 4, 8, 8))
    assert pat.hierarchical_mse(*tensors(s, t)).item() == pytest.approx(numpys_hierarchy(s, t))
    student = torch.from_numpy(t).requires_grad_()
    (gradient,) = torch.autograd.grad(pat.hierarchical_mse(student, torch.from_numpy(t)), student)
    assert not gradient.any()


@pytest.mark.parametrize(("grid", "weights"), [((4, 4), (1, 0.5, 0.25)), ((2, 2), (1, 0.5)), ((1, 1), (1,))])
def test_levels_that_are_not_coarser_are_left_out(grid, weights):
    s, t = torch.randn(2, 3, 4, *grid, dtype=torch.float64)
    levels = [(F.adaptive_avg_pool2d(s, n), F.adaptive_avg_pool2d(t, n)) for n in (4, 2, 1) if n < grid[0]]
    values = [F.mse_loss(s, t), *(F.mse_loss(*level) for level in levels)]
    expected = sum(w * v for w, v in zip(weights, values, strict=True)) / sum(weights)
    assert pat.hierarchical_mse(s, t).item() == pytest.approx(expected.item())


def test_sequences_have_levels_along_their_axis():
    s, t = torch.randn(2, 3, 4, 1, 8)
    square = pat.hierarchical_mse(s.expand(-1, -1, 8, -1), t.expand(-1, -1, 8, -1))
    assert pat.hierarchical_mse(s, t).item() == pytest.approx(square.item(), rel=1e-5)


def test_sinusoids_are_the_transformers():
    table = pat.sinusoids(5, 8, torch.device("cpu"))
    assert table[3, 4].item() == pytest.approx(np.sin(3 / 10000 ** (4 / 8)), abs=1e-6)
    assert table[3, 5].item() == pytest.approx(np.cos(3 / 10000 ** (4 / 8)), abs=1e-6)


def test_region_attention_mixes_the_four_stages():
    shapes = ((8, 16, 16), (12, 7, 7), (16, 2, 2), (20, 1, 1))
    attention = pat.RegionAttention(shapes, 32, positions_of_samples=False)
    stages = [torch.randn(2, *shape, requires_grad=True) for shape in shapes]
    first = attention(stages)[0]
    assert [tuple(tokens.shape) for tokens in attention(stages)] == [(2, 16, 32)] * 4
    assert all(g.any() for g in torch.autograd.grad(first.square().sum(), stages))
    assert attention.embed[0].project.kernel_size == (4, 4) and attention.embed[1].project.kernel_size == (2, 2)
    assert pat.token_grid((1, 64)) == (1, 16) and pat.token_grid((1, 1)) == (4, 4)


def test_published_width_of_the_attention_is_512():
    assert pat.Params().width == 512
    with pytest.raises(KdbenchError, match="multiple of the 8 heads"):
        pat.Params(width=100)


@pytest.mark.parametrize(("teacher", "variant"), [("cnn", "code"), ("vit", "mended"), ("mlp", "mended")])
def test_a_fresh_prompt_leaves_the_teacher_as_it_is(teacher, variant):
    params = pat.Params(variant=variant, width=32)
    distiller, ours, shown = adopted(pat, params, MODELS[f"teacher-{teacher}"], MODELS["student-cnn"])
    terms = distiller(ours, shown, torch.arange(6) % 3, 0.0)
    assert abs(terms["reg"].item()) < 1e-6 and set(terms) == {"ce", "pat", "reg", "kd"}
    for i in range(4):
        assert getattr(distiller, f"difference{i}").shape == (6, *distiller.pair.teacher.stages[i])
    with torch.no_grad():
        for prompt in distiller.prompts:
            prompt.beta.fill_(1.0)
    assert not torch.equal(distiller._read(shown.inputs).stages[0], shown.stages[0])


def test_released_prompts_mix_up_tokens():
    released, *_ = adopted(pat, pat.Params(width=32), MODELS["teacher-mlp"], MODELS["student-cnn"])
    assert "mixed-up tokens" in released.notes()[0]
    tokens = torch.arange(16.0 * 20).view(1, 16, 20)
    (given,) = released._prompted(0, None, (tokens,))
    assert torch.equal(given, tokens.transpose(1, 2).reshape(1, 16, 20))
    mended, *_ = adopted(pat, pat.Params(width=32, variant="mended"), MODELS["teacher-mlp"], MODELS["student-cnn"])
    assert torch.equal(mended._prompted(0, None, (tokens,))[0], tokens) and mended.notes() == []


def test_differences_of_another_batch_size_are_cut_or_repeated():
    distiller, ours, shown = adopted(pat, pat.Params(width=32), MODELS["teacher-cnn"], MODELS["student-cnn"])
    assert distiller._difference(0, 6) is None
    distiller(ours, shown, torch.arange(6) % 3, 0.0)
    kept = distiller.difference0
    assert torch.equal(distiller._difference(0, 4), kept[:4])
    assert torch.equal(distiller._difference(0, 8), torch.cat([kept, kept[:2]]))
    other, *_ = adopted(pat, pat.Params(width=32), MODELS["teacher-cnn"], MODELS["student-cnn"])
    other.load_state_dict(distiller.state_dict())
    assert torch.equal(other.difference0, kept)


HIERARCHIES = [row for row in SMALL if row[0] in ("resnet18", "mobilenetv2_100", "convnext_tiny") or "swin" in row[0]]
HIERARCHIES += [("deit_tiny_distilled_patch16_224", {"patch_size": 8}, {}, 32, "vit", [(192, 4, 4)] * 4)]


@pytest.mark.parametrize(("timm", "args", "options", "size", "family", "stages"), HIERARCHIES, ids=lambda v: str(v)[:9])
def test_prompts_find_the_stages_of_every_known_teacher(timm, args, options, size, family, stages):
    shape = (size, size, 3)
    teacher = networks.build(spec(timm, args, **options), shape, CLASSES, 0)
    read = Reader(teacher.requires_grad_(False).eval(), shape, family)
    side = read.side
    distiller = pat.Method(pat.Params(width=16, variant="mended"), PairShapes(side, side, CLASSES, LABELS))
    x = torch.randn(2, 3, size, size)
    with torch.no_grad():
        shown = read(x)
    distiller.adopt(teacher, read)
    for _ in range(2):
        terms = distiller(shown, shown, torch.tensor([0, 1]), 0.0)
    assert abs(terms["reg"].item()) < 1e-5
    sum(terms.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in distiller.parameters())
    assert all(prompt.beta.grad.any() for prompt in distiller.prompts)


def test_an_unknown_teacher_is_a_reason():
    with pytest.raises(KdbenchError, match="no prompts are known for a teacher of timm's SimpleNamespace"):
        pat.stage_entrances(SimpleNamespace(feature_info=[]))


# ---------------------------------------------------------------------------------------------------------- conformance


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("c2kd", {"masking": "minus_1000", "temperature": 2.0, "stage": 4}),
        ("pat", {"variant": "mended", "width": 32, "kd_weight": 0.0}),
    ],
)
def test_other_settings_conform(method, params):
    assert check(method, params, ALL_PAIRS[:1] + ALL_PAIRS[5:6]) == []


def test_soft_and_hard_targets_agree():
    distiller, ours, shown = adopted(c2kd, c2kd.Params(), MODELS["teacher-vit"], MODELS["student-mlp"])
    distiller.eval()
    target = torch.arange(6) % 3
    hard = distiller(ours, shown, target, 0.0)
    soft = distiller(ours, shown, F.one_hot(target, 3).float(), 0.0)
    assert all(torch.allclose(soft[name], hard[name]) for name in hard)


def test_a_cohort_trains_both(trained):
    plan = tiny_plan(blocks__main__methods=["c2kd", "pat"], seeds=[0], recipes__student__steps=4)
    run_jobs(plan, "cohort")
    records = {method: read_run(run.result) for (_, method, _), run in plan.runs().items()}
    assert {r["status"] for r in records.values()} == {"finished"}
    assert records["c2kd"]["notes"] == ["the teacher is trained too"] and records["pat"]["notes"] == []
    assert records["c2kd"]["cost"]["extra_parameters"] > 5000


@pytest.mark.parametrize("changes", [{"temperature": 0.0}, {"threshold": 1.0}, {"threshold": -1.5}])
def test_c2kd_refuses(changes):
    with pytest.raises(KdbenchError, match=r"above 0|Kendall"):
        c2kd.Params(**changes)
