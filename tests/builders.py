"""What the tests of methods share: made-up signals and features, golden values, and a distiller tried on them."""

import importlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from kdbench.conformance import networks as tiny
from kdbench.signals import Reader
from kdbench.train import networks
from kdbench.types import PairShapes, Side, Signals

CLASSES, BATCH = 5, 6

SIDES = {
    "cnn": Side("cnn", ((8, 16, 16), (12, 8, 8), (16, 4, 4), (24, 2, 2)), prefix=0, pooled=24, pooled_preact=24),
    "vit": Side("vit", ((16, 8, 8),) * 4, prefix=1, pooled=16, pooled_preact=16),
    "mlp": Side("mlp", ((24, 7, 7),) * 4, prefix=0, pooled=24, pooled_preact=24),
    "cnn 1x1": Side("cnn", ((8, 5, 5), (8, 3, 3), (12, 2, 2), (16, 1, 1)), prefix=0, pooled=18, pooled_preact=16),
    "swin": Side("vit", ((8, 15, 15), (16, 8, 8), (32, 4, 4), (64, 2, 2)), prefix=0, pooled=64, pooled_preact=64),
    "registers": Side("vit", ((30, 4, 4),) * 4, prefix=3, pooled=30, pooled_preact=30),
    "sequence": Side("mlp", ((12, 1, 65),) * 4, prefix=0, pooled=12, pooled_preact=12),
    "sequence cnn": Side(
        "cnn", ((8, 1, 64), (12, 1, 32), (16, 1, 16), (24, 1, 8)), prefix=0, pooled=24, pooled_preact=24
    ),
}
FAMILIES = ("cnn", "vit", "mlp")
HARD = torch.arange(BATCH) % CLASSES
"""Classes of the samples that `signals` gives."""

GOLDENS = np.load(Path(__file__).parent / "data/losses.npz")
"""Losses and gradients of released code, computed in fp64."""
SETTINGS = json.loads(str(GOLDENS["hyperparameters"]))
CASES = range(len(SETTINGS))

RNG = np.random.default_rng(1)
STUDENT, TEACHER = RNG.normal(size=(2, 6, 5)) * 2
"""Logits of six samples of five classes."""
TARGET = np.array([0, 4, 2, 2, 1, 3])
STUDENT_FEATURE, TEACHER_FEATURE = RNG.normal(size=(6, 7)), RNG.normal(size=(6, 4)) + 0.5


def as_tensors(*arrays):
    return [torch.from_numpy(a) for a in arrays]


def softmax(z):
    e = np.exp(z - z.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def divergence(teacher, student):
    """KL divergence of two distributions."""
    return (teacher * np.log(teacher / student)).sum()


def rotation(width):
    return torch.linalg.qr(torch.randn(width, width, dtype=torch.float64)).Q


def given(case, *names):
    """The inputs of a golden case."""
    return [torch.from_numpy(GOLDENS[f"{case}/in/{name}"]) for name in names]


def same_as_golden(actual, case, name, tolerance):
    expected = GOLDENS[f"{case}/out/{name}"]
    actual = actual.detach().numpy()
    np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance * abs(expected).max(), err_msg=name)


def golden(case, name, value, student, student_name):
    """Loss and gradient with respect to the student agree with the golden case to 1e-9 relative."""
    (gradient,) = torch.autograd.grad(value, student)
    np.testing.assert_allclose(value.item(), GOLDENS[f"{case}/out/{name}.loss"], rtol=1e-9)
    same_as_golden(gradient, case, f"{name}.grad.{student_name}", 1e-9)


def log_softmax(z, axis=1):
    """Of real or complex z: analytic, so that complex steps go through it."""
    z = z - z.real.max(axis, keepdims=True)
    return z - np.log(np.exp(z).sum(axis, keepdims=True))


def kl(teacher, student):
    """Batch mean of the KL divergence of softmax(teacher) from softmax(student), logits (B, C)."""
    log_t, log_s = log_softmax(teacher), log_softmax(student)
    return (np.exp(log_t) * (log_t - log_s)).sum() / len(log_t)


def numpys(loss, formula, student, tolerance=1e-9):
    """A loss of torch and its gradient are those of a formula in NumPy, at the fp64 array `student`.

    The formula is analytic: its derivatives are taken by complex steps, which lose no digits.
    """
    leaf = torch.from_numpy(student).requires_grad_()
    value = loss(leaf)
    (gradient,) = torch.autograd.grad(value, leaf)
    expected = np.zeros_like(student)
    for index in np.ndindex(student.shape):
        step = student.astype(complex)
        step[index] += 1e-30j
        expected[index] = formula(step).imag / 1e-30
    np.testing.assert_allclose(value.item(), formula(student.astype(complex)).real, rtol=tolerance, atol=1e-13)
    floor = tolerance * max(abs(expected).max(), 1e-4)
    np.testing.assert_allclose(gradient.numpy(), expected, rtol=tolerance, atol=floor)


def signals(side, batch=BATCH, dtype=torch.float32, seed=0):
    """Signals of a network with these shapes; each tensor is a leaf with a gradient."""
    generator = torch.Generator().manual_seed(seed)

    def leaf(*shape):
        return torch.randn(batch, *shape, generator=generator).to(dtype).requires_grad_()

    return Signals(
        logits=leaf(CLASSES),
        stages=tuple(leaf(*shape) for shape in side.stages),
        prefix=tuple(leaf(side.prefix, shape[0]) for shape in side.stages),
        pooled=leaf(side.pooled),
        pooled_preact=leaf(side.pooled_preact),
        index=torch.arange(batch),
    )


def tensors(s):
    return [s.logits, *s.stages, *s.prefix, s.pooled, s.pooled_preact]


def build(name, changes, student, teacher):
    """A distiller as the engine builds it, its teacher statistics prepared."""
    method = importlib.import_module(f"kdbench.methods.{name}").Method
    params = method.Params(**changes)
    without = getattr(params, "teacher", True) is False
    labels = tuple(i % CLASSES for i in range(100))
    pair = PairShapes(SIDES[student], None if without else SIDES[teacher], CLASSES, labels)
    assert method.supports(params, pair) is None
    assert method.needs(params) <= {"logits", "stages", "prefix", "pooled", "pooled_preact", "index"}
    torch.manual_seed(0)
    distiller = method(params, pair)
    if distiller.wants_prepare:
        distiller.prepare(signals(SIDES[teacher], seed=seed) for seed in range(2, 5))
    return distiller


def terms(name, progress=0.0, student="cnn", teacher="mlp", dtype=torch.float32, **changes):
    """The loss terms of a distiller on made-up signals."""
    distiller = build(name, changes, student, teacher)
    return distiller(signals(SIDES[student], dtype=dtype), signals(SIDES[teacher], dtype=dtype, seed=1), HARD, progress)


def only(needed, s):
    """What the engine hands over: the needed fields, None for the rest."""
    return replace(s, **{f: None for f in ("stages", "prefix", "pooled", "pooled_preact", "index") if f not in needed})


def conforms(name, changes, student, teacher, dtype=torch.float32):
    distiller = build(name, changes, student, teacher)
    needed = distiller.needs(distiller.params)
    ours, theirs = signals(SIDES[student], dtype=dtype), signals(SIDES[teacher], dtype=dtype, seed=1)
    soft = 0.7 * F.one_hot(HARD, CLASSES) + 0.06
    total = 0.0
    for target in (HARD, soft):
        terms = distiller(only(needed, ours), only(needed, theirs) if distiller.pair.teacher else None, target, 0.4)
        assert all(term.ndim == 0 and term.isfinite() for term in terms.values()), terms
        assert all(term.dtype == torch.float32 for term in terms.values())
        total = total + sum(terms.values())
    total.backward()
    assert ours.logits.grad.isfinite().all() and ours.logits.grad.any()
    assert all(t.grad is None for t in tensors(theirs))
    reached = [t.grad for t in tensors(ours) if t.grad is not None]
    assert all(gradient.isfinite().all() for gradient in reached)
    own = {n: p.grad for n, p in distiller.named_parameters()}
    assert all(gradient is not None and gradient.isfinite().all() for gradient in own.values()), own
    return ours, distiller


def adopted(method, params, teacher, student, model=None):
    """A distiller with its own copy of a teacher, and signals of both on one batch."""
    shape, classes, labels = tiny.SHAPE, tiny.CLASSES, tiny.LABELS
    read = Reader(model or networks.build(teacher, shape, classes, 1), shape, teacher.family)
    read.model.requires_grad_(False).eval()
    reader = networks.reader(student, shape, classes, 0, method.Method.needs(params))
    torch.manual_seed(0)
    distiller = method.Method(params, PairShapes(reader.side, read.side, classes, labels))
    x = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        shown = read(x)
    distiller.adopt(read.model, read)
    return distiller, reader(x), shown
