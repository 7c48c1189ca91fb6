"""UCMKD: its losses in NumPy, the copy that is not made against one that is, and BatchNorm that stands still."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from builders import HARD, SIDES, STUDENT, TARGET, TEACHER, adopted, as_tensors, log_softmax, numpys
from scipy.optimize import linprog

import kdbench
from kdbench.conformance import check, rehearse
from kdbench.conformance.networks import BATCH, CLASSES, EQUAL_PAIRS, LABELS, MODELS, SHAPE, tiny_cohort
from kdbench.methods import ucmkd
from kdbench.train import networks
from kdbench.train.cohort import shuffled
from kdbench.train.engine import _step
from kdbench.train.member import new_member
from kdbench.types import KdbenchError, PairShapes, Signals

OURS, THEIRS = np.random.default_rng(3).normal(size=(2, 5, 7))
"""Features."""
SUMALL = ucmkd.Params(variant="sumall")


# ---------------------------------------------------------------------------------------------------------- the losses


def costs(student, teacher):
    unit = [x / np.sqrt((x**2).sum(axis=1, keepdims=True)) for x in (student, teacher)]
    return 1 - unit[0] @ unit[1].T


def transport(student, teacher, reg, iterations):
    """In logarithms of the plan, whose columns and rows are brought to their sums in turns."""
    cost = costs(student, teacher)
    plan = -cost / reg
    for axis in (0, 1) * iterations:
        plan = log_softmax(plan, axis) - np.log(len(cost))
    return (np.exp(plan) * cost).sum()


@pytest.mark.parametrize(("reg", "iterations"), [(0.1, 100), (0.5, 3), (0.03, 20)])
def test_transport_is_numpys(reg, iterations):
    numpys(
        lambda x: ucmkd.transport_loss(x, torch.from_numpy(THEIRS), reg, iterations),
        lambda x: transport(x, THEIRS, reg, iterations),
        OURS,
    )


def test_transport_is_the_cheapest_where_entropy_weighs_little():
    sums = np.concatenate([np.kron(np.eye(5), np.ones(5)), np.kron(np.ones(5), np.eye(5))]).reshape(10, 25)
    cheapest = linprog(costs(OURS, THEIRS).flatten(), A_eq=sums, b_eq=np.full(10, 1 / 5)).fun
    found, smooth = (
        ucmkd.transport_loss(*as_tensors(OURS, THEIRS), reg, 2000).item() for reg in (ucmkd.LEAST_REG, 0.5)
    )
    assert found == pytest.approx(cheapest, abs=0.01) and smooth > cheapest + 0.1


def test_the_order_of_the_teachers_counts_for_nothing():
    student, teacher = as_tensors(OURS, THEIRS)
    student.requires_grad_()
    values = [ucmkd.transport_loss(student, x, 0.1, 100) for x in (teacher, teacher[[3, 1, 4, 0, 2]])]
    gradients = [torch.autograd.grad(value, student)[0] for value in values]
    torch.testing.assert_close(values[0], values[1])
    torch.testing.assert_close(gradients[0], gradients[1])


def test_the_label_loss_is_numpys_on_both_sides():
    def own(logits):
        return log_softmax(logits)[np.arange(6), TARGET]

    factor, target = np.exp(own(TEACHER)), torch.from_numpy(TARGET)
    student, teacher = as_tensors(STUDENT, TEACHER)
    other = (factor * own(TEACHER)).mean(), -own(STUDENT).mean()
    numpys(lambda x: ucmkd.label_loss(x, teacher, target), lambda z: other[0] - own(z).mean(), STUDENT)
    numpys(lambda x: ucmkd.label_loss(student, x, target), lambda z: other[1] + (factor * own(z)).mean(), TEACHER)
    soft = F.one_hot(target, 5).double()
    torch.testing.assert_close(ucmkd.label_loss(student, teacher, soft), ucmkd.label_loss(student, teacher, target))


def test_a_first_step_is_adamws():
    weight, gradient = torch.nn.Parameter(torch.from_numpy(OURS)), torch.from_numpy(THEIRS)
    found = weight.detach() + ucmkd.first_step(weight, gradient, 0.1, 0.05)
    weight.grad = gradient
    torch.optim.AdamW([weight], 0.1, weight_decay=0.05).step()
    torch.testing.assert_close(found, weight.detach())


# ------------------------------------------------------------------------------------------------------------ the copy


def by_a_copy(net, x, teacher_feature, classifier, target, params):
    """The released step, plainly: the gradients that it would hand to the student, and the copy that holds them."""
    copied = copy.deepcopy(net)
    optimizer = torch.optim.AdamW(copied.parameters(), params.inner_lr, weight_decay=params.inner_decay)

    def feature():
        return copied.forward_head(copied.forward_features(x), pre_logits=True)

    ucmkd.transport_loss(feature(), teacher_feature, params.reg, params.iterations).backward()
    optimizer.step()
    optimizer.zero_grad()
    still = feature().detach()
    ucmkd.label_loss(copied.get_classifier()(still), classifier(still), target).backward()
    optimizer.step()
    optimizer.zero_grad()
    F.cross_entropy(copied(x), target).backward()
    return copied


def test_the_loss_at_displaced_weights_is_the_released_step_on_a_copy():
    """The teacher's classifier is asked there, and has no part in the gradient; BatchNorm moves three times in both."""
    params = ucmkd.Params(inner_lr=1e-2)
    reader = networks.reader(MODELS["student-cnn"], SHAPE, CLASSES, 0, ucmkd.Method.needs(params))
    net, target = reader.model.double(), torch.arange(BATCH) % CLASSES
    torch.manual_seed(0)
    x, theirs = torch.randn(BATCH, 3, 8, 8).double(), torch.randn(BATCH, 16).double()
    classifier = torch.nn.Linear(16, CLASSES).double()
    torch.manual_seed(0)
    copied = by_a_copy(net, x, theirs, classifier, target, params)
    plain, before = copy.deepcopy(net), copy.deepcopy(net.state_dict())
    torch.manual_seed(0)
    method = ucmkd.Method(params, PairShapes(reader.side, reader.side, CLASSES, LABELS))
    method.borrow(reader)
    terms = method(reader(x), Signals(torch.zeros(BATCH, CLASSES), pooled=theirs), target, 0.0)
    sum(terms.values()).backward()
    for (name, ours), other in zip(net.named_parameters(), copied.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, other.grad, rtol=1e-9, atol=1e-12)
        assert torch.equal(ours, before[name]), "the student itself stays where it is"
    for ours, other in zip(net.buffers(), copied.buffers(), strict=True):
        torch.testing.assert_close(ours, other)
    assert net.bn1.num_batches_tracked == 3
    torch.manual_seed(0)
    F.cross_entropy(plain(x), target).backward()
    change = (net.conv1.weight.grad - plain.conv1.weight.grad).norm() / plain.conv1.weight.grad.norm()
    assert change > 0.05, "at a rate of 1e-2 the copy is another network"


def test_a_shuffled_teacher_changes_rounding_alone():
    values = []
    for show in (lambda signals: signals, shuffled):
        reader = networks.reader(MODELS["student-vit"], SHAPE, CLASSES, 0, ucmkd.Method.needs(ucmkd.Params()))
        method = ucmkd.Method(ucmkd.Params(inner_lr=1e-2), PairShapes(reader.side, reader.side, CLASSES, LABELS))
        method.borrow(reader)
        torch.manual_seed(0)
        x, theirs = torch.randn(BATCH, 3, 8, 8), torch.randn(BATCH, 16)
        shown = show(Signals(torch.zeros(BATCH, CLASSES), pooled=theirs))
        values.append(method(reader(x), shown, torch.arange(BATCH) % CLASSES, 0.0)["ce_copy"].item())
    assert values[1] == pytest.approx(values[0], rel=1e-5)


def test_the_plain_sum_reads_the_teachers_classifier():
    distiller, ours, shown = adopted(ucmkd, SUMALL, MODELS["student-vit"], MODELS["student-cnn"])
    target = torch.arange(6) % 3
    terms = distiller(ours, shown, target, 0.0)
    expected = {
        "ce": F.cross_entropy(ours.logits, target),
        "fa": ucmkd.transport_loss(ours.pooled, shown.pooled, 0.1, 100),
        "la": ucmkd.label_loss(ours.logits, distiller.classifier(ours.pooled), target),
    }
    torch.testing.assert_close(terms, expected)
    assert not any(p.requires_grad for p in distiller.parameters())


def test_features_of_two_widths_are_a_reason():
    reason = ucmkd.Method.supports(ucmkd.Params(), PairShapes(SIDES["cnn"], SIDES["vit"], CLASSES, LABELS))
    assert reason == "the student's feature is 24 wide, the teacher's 16"
    assert ucmkd.Method.supports(SUMALL, PairShapes(SIDES["cnn"], SIDES["mlp"], CLASSES, LABELS)) is None


@pytest.mark.parametrize(("changes", "told"), [({"reg": 0.01}, "reg must be at least 0.025"), ({"iterations": 0}, "1")])
def test_ucmkd_refuses(changes, told):
    with pytest.raises(KdbenchError, match=told):
        ucmkd.Params(**changes)


# ----------------------------------------------------------------------------------------------------- frozen BatchNorm


def test_batchnorm_stands_still_after_its_share_of_the_training():
    params = ucmkd.Params(variant="ce", training_mode_share=0.25)
    cohort = tiny_cohort(params, *EQUAL_PAIRS[0])
    member, moved = new_member(cohort, ucmkd.Method, params, 0), []
    for step in range(4):
        before = copy.deepcopy(member.model.state_dict())
        _step(cohort, member, cohort.batch(torch.arange(BATCH) + step, step))
        assert not torch.equal(member.model.conv1.weight, before["conv1.weight"])
        moved.append(not torch.equal(member.model.bn1.running_var, before["bn1.running_var"]))
    assert moved == [True, True, False, False], "two of eight steps"


def test_a_loop_of_ones_own_is_put_into_evaluation_mode_too():
    teacher, student = (networks.build(MODELS["student-cnn"], SHAPE, CLASSES, seed) for seed in (1, 2))
    x = torch.randn(BATCH, 3, 8, 8)
    distil = kdbench.attach(student, teacher, "ucmkd", sample=x, variant="ce", training_mode_share=0.5)
    for progress, mode in ((0.4, True), (0.6, False)):
        distil(x, HARD % CLASSES, progress)
        assert student.training is mode


# --------------------------------------------------------------------------------------------------------- the contract


def test_the_published_form_conforms():
    assert check("ucmkd", pairs=EQUAL_PAIRS[:1]) == []


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{"variant": "sumall"}, {"variant": "sumall", "training_mode_share": 0.5}])
def test_the_plain_sum_conforms(changes):
    assert check("ucmkd", changes) == rehearse("ucmkd", changes) == []
