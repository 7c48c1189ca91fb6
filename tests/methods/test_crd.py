"""CRD: golden values, a formula of its own, its negatives and its memory."""

import numpy as np
import pytest
import torch
from builders import CASES, CLASSES, HARD, SETTINGS, SIDES, build, given, same_as_golden, signals

from kdbench.methods import crd
from kdbench.types import KdbenchError, PairShapes


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
    same_as_golden(value, case, "crd.loss", 1e-6)
    gradients = torch.autograd.grad(value, (student, teacher))
    for side, gradient in zip(("student", "teacher"), gradients, strict=True):
        same_as_golden(gradient, case, f"crd.grad.{side}_embedding", 1e-6)
        same_as_golden(getattr(memory, f"normaliser_{side}"), case, f"crd.Z_{side}", 1e-6)
    same_as_golden(memory(student, teacher, *indices), case, "crd.loss_second_call", 1e-6)
    # The golden banks are those after the second call.
    for side in ("student", "teacher"):
        same_as_golden(getattr(memory, f"memory_{side}"), case, f"crd.memory_{side}_after", 1e-6)


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
        return distiller(ours, theirs, HARD, 0.5)["crd"]

    first = build("crd", {}, "cnn", "vit")
    step(first, 1)
    state = {name: value.clone() for name, value in first.state_dict().items()}
    second = build("crd", {}, "cnn", "vit")
    second.load_state_dict(state)
    assert torch.equal(step(first, 2), step(second, 2))
    assert torch.equal(first.contrast.memory_teacher, second.contrast.memory_teacher)
    assert not torch.equal(state["contrast.memory_teacher"], first.contrast.memory_teacher)
    assert torch.equal(state["contrast.normaliser_student"], first.contrast.normaliser_student)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"negatives": 0}, "above 0"),
        ({"momentum": 1.0}, "below 1"),
        ({"tau": 0.0}, "above 0"),
    ],
)
def test_impossible_settings_are_refused(changes, complaint):
    with pytest.raises(KdbenchError, match=complaint):
        crd.Params(**changes)
