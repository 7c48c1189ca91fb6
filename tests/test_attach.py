"""A method in a loop of one's own: the engine's gradients, on networks of timm and of anybody."""

from __future__ import annotations

import copy
import dataclasses
import json
import re
import subprocess
import sys

import matplotlib.pyplot as plt
import pytest
import torch
from conftest import REPOSITORY
from torch import nn

import kdbench
from kdbench.conformance import networks as tiny
from kdbench.conformance.trial import HARD, SOFT
from kdbench.named import NamedReader, token_grid
from kdbench.plan.registry import load_method, method_names
from kdbench.train import networks
from kdbench.train.engine import _step
from kdbench.train.member import new_member, new_optimizer
from kdbench.types import KdbenchError

# kdbench has made sure that these can be imported.
import timm  # isort: skip
from torchvision.models import ResNet, SwinTransformer, VisionTransformer  # isort: skip
from torchvision.models.resnet import BasicBlock  # isort: skip

STAGES = {"cnn": [f"layer{i}" for i in (1, 2, 3, 4)], "vit": [f"blocks.{i}" for i in range(4)]}
STAGES["mlp"] = STAGES["vit"]
CLASSES = 5
IMAGES = torch.randn(6, 3, 16, 16, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(6) % CLASSES
few_samples = pytest.mark.filterwarnings("ignore:.*statistics of the teacher")


def gradients(*modules):
    return [p.grad for module in modules for p in module.parameters() if p.grad is not None]


# ----------------------------------------------------------------------------------------------- the engine's own step

ON_EVERY_RUN = [("kd", "cnn vit"), ("uhkd", "vit cnn"), ("crd", "mlp cnn"), ("c2kd", "cnn mlp")]
RECIPE = dataclasses.replace(tiny.RECIPE, clip_grad=None, optimizer="sgd", lr=1e-3, min_lr=1e-3)


@few_samples
@pytest.mark.parametrize(
    ("method", "pair"),
    [
        pytest.param(method, pair, marks=() if (method, pair) in ON_EVERY_RUN else pytest.mark.slow)
        for method in method_names()
        for pair in ("cnn vit", "vit cnn", "cnn mlp", "mlp cnn")
    ],
)
def test_gradients_are_the_engines(method, pair):
    """Of two steps, the second with soft labels late in training, stages given by name."""
    cls = load_method(method)
    params = cls.Params()
    t, s = pair.split()
    role = "student" if cls.equal_widths else "teacher"
    teacher, student = tiny.MODELS[f"{role}-{t}"], tiny.MODELS[f"student-{s}"]
    cohort = tiny.tiny_cohort(params, teacher, student, recipe=RECIPE)
    member = new_member(cohort, cls, params, 3)

    mine = networks.build(student, tiny.SHAPE, tiny.CLASSES, cohort.seed)
    torch.manual_seed(3)
    distil = kdbench.attach(
        mine,
        cohort.teacher and cohort.teacher.reader.model,
        method,
        sample=torch.cat(list(cohort.batches.evaluation("image", "train", 0, 0, None))),
        student_stages=STAGES[s],
        teacher_stages=None if cls.timm_teacher else STAGES[t],
        train_labels=tiny.LABELS,
    )
    optimizer, stream = new_optimizer(RECIPE, mine, distil.distiller), torch.get_rng_state()
    for step in (HARD, SOFT):
        batch = cohort.batch(torch.arange(tiny.BATCH) + step, step)
        _step(cohort, member, batch)
        torch.set_rng_state(stream)
        terms = distil(batch.inputs["image"], batch.target, batch.progress, batch.index)
        optimizer.zero_grad(set_to_none=True)
        sum(terms.values()).backward()
        optimizer.step()
        stream = torch.get_rng_state()
        expected, found = gradients(member.model, member.distiller), gradients(mine, distil)
        assert list(terms) == member.terms and len(expected) == len(found)
        for a, b in zip(expected, found, strict=True):
            torch.testing.assert_close(b, a, rtol=1e-6, atol=1e-6)


# ---------------------------------------------------------------------------------------------------- any two networks


def small_resnet() -> nn.Module:
    """torchvision's, two blocks a stage narrowed to one, its last layer telling five classes apart."""
    return ResNet(BasicBlock, [1, 1, 1, 1], num_classes=CLASSES)


def small_vit() -> nn.Module:
    """torchvision's: 16 patches and a class token."""
    torch.manual_seed(1)
    vit = VisionTransformer(16, 4, 4, 2, 24, 48, num_classes=CLASSES)
    nn.init.normal_(vit.heads.head.weight)
    return vit


RESNET = [f"layer{i}" for i in (1, 2, 3, 4)]
VIT = [f"encoder.layers.encoder_layer_{i}" for i in range(4)]


def plain() -> nn.Sequential:
    """As anybody writes it: a convolution and an activation four times, and a classifier."""
    torch.manual_seed(2)
    layers: list[nn.Module] = []
    for before, after in zip([3, 8, 8, 12], [8, 8, 12, 16], strict=True):
        layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, CLASSES))


PLAIN = ["1", "3", "5", "7"]


@torch.no_grad()
def test_what_torchvisions_networks_show():
    """Against a forward pass written out here."""
    resnet, vit = small_resnet().eval(), small_vit().eval()
    read = NamedReader(resnet, RESNET, IMAGES[:2], "student")
    signals, x = read(IMAGES), resnet.maxpool(resnet.relu(resnet.bn1(resnet.conv1(IMAGES))))
    block = resnet.layer4[0]
    for stage, maps in zip((resnet.layer1, resnet.layer2, resnet.layer3, resnet.layer4), signals.stages, strict=True):
        into, x = x, stage(x)
        assert torch.equal(maps, x)
    assert torch.equal(signals.logits, resnet(IMAGES)) and torch.allclose(signals.pooled, x.mean((2, 3)))
    sums = block.bn2(block.conv2(block.relu(block.bn1(block.conv1(into))))) + block.downsample(into)
    assert torch.allclose(signals.pooled_preact, sums.mean((2, 3)), atol=1e-5) and (signals.pooled_preact < 0).any()
    assert read.side.family == "cnn" and read.side.pooled == 512 and read.classes == CLASSES

    read = NamedReader(vit, VIT, IMAGES[:2], "student")
    signals, tokens = read(IMAGES), vit._process_input(IMAGES)
    tokens = torch.cat([vit.class_token.expand(6, -1, -1), tokens], dim=1) + vit.encoder.pos_embedding
    for block, maps, prefix in zip(vit.encoder.layers, signals.stages, signals.prefix, strict=True):
        tokens = block(tokens)
        assert torch.equal(prefix, tokens[:, :1])
        assert torch.equal(maps, tokens[:, 1:].reshape(6, 4, 4, 24).permute(0, 3, 1, 2))
    assert torch.equal(signals.pooled, vit.encoder.ln(tokens)[:, 0])
    assert (read.side.family, read.side.prefix, read.side.stages) == ("vit", 1, ((24, 4, 4),) * 4)


@torch.no_grad()
def test_maps_with_their_channels_last_are_read_as_such():
    swin = SwinTransformer([2, 2], 8, [1, 1, 1, 1], [2] * 4, [4, 4], num_classes=CLASSES).eval()
    read = NamedReader(swin, [f"features.{i}" for i in (1, 3, 5, 7)], torch.zeros(2, 3, 32, 32), "teacher")
    assert read.side.stages == ((8, 16, 16), (16, 8, 8), (32, 4, 4), (64, 2, 2)) and read.side.family == "vit"


@pytest.mark.parametrize(
    ("tokens", "size", "grid"),
    [
        (196, (224, 224), (14, 14)),
        (197, (224, 224), None),
        (32, (32, 64), (4, 8)),
        (12, (16, 16), None),
        (16, (1, 64), (1, 16)),
        (17, (1, 64), None),
        (0, (16, 16), None),
    ],
)
def test_tokens_fill_a_grid_like_the_inputs(tokens, size, grid):
    assert token_grid(tokens, size) == grid


@few_samples
@pytest.mark.parametrize("method", ["kd", "uhkd", "ofa", "fdcmkd"])
def test_a_loop_of_ones_own_learns(method):
    """A torchvision ViT teaches nn.Sequential: the loss falls, the teacher stays what it was."""
    student, teacher = plain(), small_vit()
    before = copy.deepcopy(teacher.state_dict())
    distil = kdbench.attach(student, teacher, method, sample=IMAGES, student_stages=PLAIN, teacher_stages=VIT)
    optimizer = torch.optim.Adam([*student.parameters(), *distil.parameters()], 1e-2)
    losses = []
    for step in range(10):
        teacher.train()  # as `model.train()` of a module that holds both would
        loss = sum(distil(IMAGES, LABELS, step / 10).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] and not teacher.training
    assert gradients(teacher) == [] and not any(p.requires_grad for p in teacher.parameters())
    assert all(torch.equal(v, before[k]) for k, v in teacher.state_dict().items())
    assert distil.logits.shape == (6, CLASSES)


@few_samples
def test_the_student_stays_the_users():
    """Its weights, its statistics, the mode of each module and the global stream; and no hook is left in it."""
    student, teacher = small_resnet().train(), plain()
    student.bn1.eval()
    before, stream = copy.deepcopy(student.state_dict()), torch.get_rng_state()
    distil = kdbench.attach(student, teacher, "kd", sample=IMAGES, student_stages=RESNET, teacher_stages=PLAIN)
    assert student.training and not student.bn1.training and torch.equal(torch.get_rng_state(), stream)
    assert all(torch.equal(v, before[k]) for k, v in student.state_dict().items())
    distil(IMAGES, LABELS, 0.0)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in student.modules())
    assert not list(distil.parameters()), "KD has none of its own, and the student's are not among them"


def test_networks_of_timm_need_no_names():
    torch.manual_seed(0)
    spec = {role: tiny.MODELS[f"{role}-vit"] for role in ("student", "teacher")}
    student, teacher = (networks.build(spec[role], tiny.SHAPE, tiny.CLASSES, 0) for role in ("student", "teacher"))
    x = torch.randn(4, 3, 8, 8)
    distil = kdbench.attach(student, teacher, "pat", sample=x)
    terms = distil(x, torch.tensor([0, 1, 2, 0]), 0.5)
    assert set(terms) == {"ce", "pat", "reg", "kd"} and all(term.isfinite() for term in terms.values())


@few_samples
def test_the_users_autocast_reaches_both_networks():
    student, teacher = plain(), small_vit()
    distil = kdbench.attach(student, teacher, "uhkd", sample=IMAGES, student_stages=PLAIN, teacher_stages=VIT)
    with torch.autocast("cpu", torch.bfloat16):
        terms = distil(IMAGES, LABELS, 0.0)
    assert distil.logits.dtype == torch.bfloat16 and all(term.dtype == torch.float32 for term in terms.values())
    sum(terms.values()).backward()
    assert all(gradient.isfinite().all() for gradient in gradients(student, distil))


@few_samples
@pytest.mark.parametrize("method", ["uhkd", "crd"])
def test_a_loop_goes_on_from_its_state(method):
    def attached(student):
        names = {"student_stages": PLAIN, "teacher_stages": VIT, "train_labels": range(5)}
        return kdbench.attach(student, small_vit(), method, sample=IMAGES, **names)

    def values(distil, step):
        torch.manual_seed(step)
        return distil(IMAGES, LABELS, 0.5, torch.arange(6) % 5)

    student = plain()
    distil = attached(student)
    sum(values(distil, 0).values()).backward()
    resumed = attached(student)
    resumed.load_state_dict(distil.state_dict())
    expected, found = values(distil, 1), values(resumed, 1)
    assert all(torch.equal(found[name], term) for name, term in expected.items())


# ------------------------------------------------------------------------------------------------------------ refusals


class Odd(nn.Module):
    """Two networks of which the second does not run."""

    def __init__(self, gives=lambda logits: logits) -> None:
        super().__init__()
        self.first, self.second, self.gives = plain(), plain(), gives

    def forward(self, x):
        return self.gives(self.first(x))


class Tokens(nn.Module):
    """Its stages are 18 tokens, of which two are prefix tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks, self.head = nn.Sequential(*(nn.Linear(9, 9) for _ in range(4))), nn.Linear(9, CLASSES)

    def forward(self, x):
        return self.head(self.blocks(x[..., :6, :].reshape(len(x), 18, 16)[..., :9]).mean(1))


BLOCKS = [f"blocks.{i}" for i in range(4)]
OTHER = nn.Sequential(plain(), nn.Linear(CLASSES, 3))
HEADLESS = nn.Sequential(nn.Conv2d(3, 1, 1), nn.AdaptiveAvgPool2d((1, CLASSES)), nn.Flatten())
REFUSED = {
    "method": ({"method": "uhdk"}, "unknown method 'uhdk'; did you mean 'uhkd'?"),
    "parameter": ({"betta": 1.0}, "attach: unknown key 'betta'; did you mean 'beta'?"),
    "choice": ({"compact": "corp"}, "attach.compact: unknown value 'corp'; did you mean 'crop'?"),
    "submodule": (
        {"teacher_stages": [*VIT[:3], "encoder.layer_3"]},
        "teacher_stages: unknown submodule 'encoder.layer_3'",
    ),
    "three": ({"student_stages": PLAIN[:3]}, "student_stages: methods read four stages, and 3 are named"),
    "unnamed": ({"student_stages": None}, "fewer than four stages; name four of its submodules: student_stages=[...]"),
    "in place": (
        {"student_stages": ["0", *PLAIN[1:]]},
        "'0': what it gives is changed in place by the module after it",
    ),
    "vector": ({"student_stages": [*PLAIN[:3], "9"]}, "'9' gives a tensor (2, 16); a stage of 2 images is maps"),
    "idle": (
        {"student": Odd(), "student_stages": [f"second.{i}" for i in PLAIN]},
        "'second.1' does not run in the student",
    ),
    "no logits": ({"student": Odd(lambda logits: {"scores": logits}), "student_stages": None}, "inputs, not a dict"),
    "tokens": ({"student": Tokens(), "student_stages": BLOCKS}, "'blocks.0' gives 18 tokens, which fill no grid"),
    "classes": ({"student": OTHER, "student_stages": None}, "the student has 3 classes, the teacher 5"),
    "no classifier": (
        {"method": "rkd", "student": HEADLESS, "student_stages": None},
        "no Linear or convolution of 5 outp",
    ),
    "no teacher": ({"teacher": None}, "uhkd learns from a teacher, and none is given"),
    "not timm": ({"method": "pat"}, "pat goes into the layers of its teacher, so it takes a timm network"),
    "labels": ({"method": "crd"}, "crd keeps something of every training sample: give train_labels="),
}


@few_samples
@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_attached_is_refused_in_a_sentence(name):
    changes, sentence = REFUSED[name]
    usual = {
        "student": plain(),
        "teacher": small_vit(),
        "method": "uhkd",
        "student_stages": PLAIN,
        "teacher_stages": VIT,
    }
    with pytest.raises(KdbenchError) as refused:
        kdbench.attach(**usual | changes, sample=IMAGES)
    assert sentence in str(refused.value)


def test_prefix_tokens_may_be_said():
    student = Tokens()
    student.num_prefix_tokens = 2
    assert NamedReader(student, BLOCKS, IMAGES[:2], "student").side.stages == ((9, 4, 4),) * 4


def test_a_step_without_what_it_needs_is_refused():
    distil = kdbench.attach(plain(), small_vit(), "crd", sample=IMAGES, train_labels=LABELS)
    with pytest.raises(KdbenchError, match="from 0 to 1, not 7"):
        distil(IMAGES, LABELS, 7)
    with pytest.raises(KdbenchError, match="crd keeps something of every sample: give index="):
        distil(IMAGES, LABELS, 0.5)


def test_few_samples_for_a_teachers_statistics_are_warned_of():
    with pytest.warns(UserWarning, match="holds 6 inputs; give some hundreds"):
        kdbench.attach(plain(), small_vit(), "uhkd", sample=IMAGES, student_stages=PLAIN, teacher_stages=VIT)


def test_without_a_teacher():
    """Scratch, and FD-CMKD's heads alone; KD of vectors, which have no stages, with one."""
    for method in ("scratch", "fdcmkd"):
        terms = kdbench.attach(plain(), None, method, sample=IMAGES)(IMAGES, LABELS, 0.0)
        assert torch.isfinite(sum(terms.values()))
    student, teacher = nn.Linear(7, CLASSES), nn.Sequential(nn.Linear(7, 9), nn.ReLU(), nn.Linear(9, CLASSES))
    x = torch.randn(6, 7)
    assert set(kdbench.attach(student, teacher, "kd", sample=x, temperature=4)(x, LABELS, 0.0)) == {"ce", "kd"}


@few_samples
def test_the_loop_of_the_documentation():
    page = (REPOSITORY / "docs/attach.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, re.S)
    teacher = timm.models.VisionTransformer(16, 4, num_classes=CLASSES, embed_dim=24, depth=12, num_heads=2)
    place = {
        "student": small_resnet(),
        "teacher": teacher,
        "images": IMAGES,
        "loader": [(IMAGES, LABELS)],
        "torch": torch,
    }
    exec(code, place)
    assert set(place["terms"]) == {"ce", "kd", "stage1", "stage2", "stage3", "stage4"} and 0 <= place["accuracy"] <= 1


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*non-interactive")
def test_the_tour(monkeypatch):
    """Its cells in their order: the teacher learns, every student learns, and what is shown was found in this way."""
    monkeypatch.setattr(plt, "show", plt.close)
    path = REPOSITORY / "docs/tour.ipynb"
    place: dict = {}
    for cell in json.loads(path.read_text())["cells"]:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), place)
    assert place["found"] > 95
    assert {method for method, _ in place["accuracy"]} == {"scratch", "kd", "uhkd"}
    assert min(place["accuracy"].values()) > 25, "chance is 10 %"
    assert path.stat().st_size < 200_000


def test_importing_kdbench_stays_light():
    code = "import sys, kdbench; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "timm", "numpy"} & set(done.stdout.split())
