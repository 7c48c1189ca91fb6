"""PAT: formulas of its own, the region attention, and the prompts of every known teacher."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from builders import adopted, as_tensors
from test_models import SMALL, spec

from kdbench.conformance import check
from kdbench.conformance.networks import ALL_PAIRS, CLASSES, LABELS, MODELS
from kdbench.methods import pat
from kdbench.signals import Reader
from kdbench.train import networks
from kdbench.types import KdbenchError, PairShapes

RNG = np.random.default_rng(0)
HIERARCHIES = [row for row in SMALL if row[0] in ("resnet18", "mobilenetv2_100", "convnext_tiny") or "swin" in row[0]]
HIERARCHIES += [("deit_tiny_distilled_patch16_224", {"patch_size": 8}, {}, 32, "vit", [(192, 4, 4)] * 4)]
OFTEN = ("resnet18", "deit_tiny_distilled_patch16_224")
TEACHERS = [row if row[0] in OFTEN else pytest.param(*row, marks=pytest.mark.slow) for row in HIERARCHIES]


def numpys_hierarchy(s, t):
    total, weights = ((s - t) ** 2).mean(), 1.0
    for level, weight in ((4, 0.5), (2, 0.25), (1, 0.125)):
        cells = s.shape[-1] // level
        pooled = [x.reshape(*x.shape[:2], level, cells, level, cells).mean((3, 5)) for x in (s, t)]
        total, weights = total + weight * ((pooled[0] - pooled[1]) ** 2).mean(), weights + weight
    return total / weights


def test_hierarchical_mse_is_numpys():
    s, t = RNG.normal(size=(2, 3, 4, 8, 8))
    assert pat.hierarchical_mse(*as_tensors(s, t)).item() == pytest.approx(numpys_hierarchy(s, t))
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


@pytest.mark.parametrize(("timm", "args", "options", "size", "family", "stages"), TEACHERS, ids=lambda v: str(v)[:9])
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


@pytest.mark.slow
def test_other_settings_conform():
    assert check("pat", {"variant": "mended", "width": 32, "kd_weight": 0.0}, ALL_PAIRS[:1] + ALL_PAIRS[5:6]) == []
