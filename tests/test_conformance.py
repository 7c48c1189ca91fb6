"""Every registered method keeps the contract, and every promise of the check can be seen to fail."""

from __future__ import annotations

import dataclasses
import sys
from dataclasses import dataclass
from types import ModuleType

import pytest
import torch
from torch import nn

from kdbench.conformance import check
from kdbench.conformance import networks as tiny
from kdbench.conformance.networks import ALL_PAIRS, MODELS
from kdbench.methods.base import Distiller, cross_entropy
from kdbench.methods.kd import kd_loss
from kdbench.plan.registry import load_method, method_names
from kdbench.train import networks as train_networks
from kdbench.types import KdbenchError, ModelSpec

TITLE = "planted"
GROUP = "logits"

ONE_PAIR = [(MODELS["teacher-cnn"], MODELS["student-vit"])]


ON_EVERY_RUN = ("kd", "uhkd")
"""One that reads logits, one that reads features; the other ones take minutes together and are slow tests."""
EVERY_METHOD = [pytest.param(name, marks=() if name in ON_EVERY_RUN else pytest.mark.slow) for name in method_names()]


@pytest.mark.parametrize("method", EVERY_METHOD)
def test_conforms_on_every_pair_of_families(method):
    assert check(method) == []


NARROW = {
    "cnn": ("ResNet", {"block": "BasicBlock", "layers": [1, 1, 1, 1], "channels": [8, 8, 16, 16]}),
    "vit": ("VisionTransformer", {"patch_size": 16, "embed_dim": 24, "depth": 4, "num_heads": 2}),
    "mlp": ("MlpMixer", {"patch_size": 16, "embed_dim": 24, "num_blocks": 4}),
}
AT_224 = {
    family: ModelSpec(f"{family}-224", timm, "tiny", "conformance", args=args, family=family)
    for family, (timm, args) in NARROW.items()
}


@pytest.mark.slow
@pytest.mark.parametrize("method", method_names())
def test_conforms_at_224_px(method):
    """Grids of the published tables: 56 to 7 cells, and 14 x 14 tokens; each family once on each side. Of one width are
    the ViT and the MLP-Mixer."""
    families = list(AT_224)
    position = 1 if load_method(method).equal_widths else method_names().index(method)
    teacher, student = AT_224[families[position % 3]], AT_224[families[(position + 1) % 3]]
    assert check(method, pairs=[(teacher, student)], shape=(224, 224, 3), batch=2, thorough=False) == []


# ------------------------------------------------------------------------------------------------------------- planted


@dataclass(frozen=True)
class Params:
    weight: float = 1.0
    """One."""


class Good(Distiller):
    """A method to spoil."""

    Params = Params

    @classmethod
    def needs(cls, params):
        return frozenset({"logits", "stages"})

    def forward(self, student, teacher, target, progress):
        return {"ce": cross_entropy(student.logits, target), "good": self.own(student, teacher, target)}

    def own(self, student, teacher, target):
        return kd_loss(student.logits, teacher.logits, 1.0)


class NotFinite(Good):
    def own(self, student, teacher, target):
        return super().own(student, teacher, target) / 0


class NoScalar(Good):
    def own(self, student, teacher, target):
        return student.logits.sum(1)


class HalfPrecision(Good):
    def own(self, student, teacher, target):
        return super().own(student, teacher, target).bfloat16()


class NoTerms(Good):
    def forward(self, student, teacher, target, progress):
        return super().own(student, teacher, target)


class TeachesTheTeacher(Good):
    def own(self, student, teacher, target):
        return (student.logits - teacher.logits).square().mean()


class WritesOnTheTeacher(Good):
    def own(self, student, teacher, target):
        teacher.stages[1].data.mul_(2)
        return super().own(student, teacher, target)


class IdleProjector(Good):
    def __init__(self, params, pair):
        super().__init__(params, pair)
        self.projector = nn.Linear(3, 3)


class CrossEntropyOnly(Good):
    def own(self, student, teacher, target):
        return kd_loss(student.logits.detach(), teacher.logits, 1.0)


class NoGradient(Good):
    def __init__(self, params, pair):
        super().__init__(params, pair)
        self.head = nn.Parameter(torch.ones(()))

    def forward(self, student, teacher, target, progress):
        return {"good": self.head * self.own(student, teacher, target).detach()}


class HardTargetsOnly(Good):
    def own(self, student, teacher, target):
        return nn.functional.nll_loss(student.logits.log_softmax(1), target)


class OnceOnly(Good):
    def own(self, student, teacher, target):
        assert not hasattr(self, "used"), "used twice"
        self.used = True
        return super().own(student, teacher, target)


class Forgetful(Good):
    count = 0

    def own(self, student, teacher, target):
        self.count += 1
        return self.count * super().own(student, teacher, target)


class Unreadable(Good):
    def get_extra_state(self):
        return ModuleType

    def set_extra_state(self, state):
        pass


class SharesItsMemory(Good):
    """Early in training it looks at whose turn was last."""

    last = None

    def forward(self, student, teacher, target, progress):
        terms = super().forward(student, teacher, target, progress)
        factor = 2 if progress < 0.7 and SharesItsMemory.last is not self else 1
        SharesItsMemory.last = self
        return {**terms, "good": factor * terms["good"]}


class NoBf16(Good):
    def own(self, student, teacher, target):
        assert student.logits.dtype == torch.float32, "half a number"
        return super().own(student, teacher, target)


class Unasked(Good):
    def own(self, student, teacher, target):
        return student.pooled.float().mean()


class AsksTooMuch(Good):
    @classmethod
    def needs(cls, params):
        return frozenset({"logits", "gradients"})


class NotBuilt(Good):
    def __init__(self, params, pair):
        raise ValueError("no")


class ServesNobody(Good):
    @classmethod
    def supports(cls, params, pair):
        return "it is shy"


class RefusesToAdopt(Good):
    @classmethod
    def needs(cls, params):
        return frozenset({"logits", "teacher", "inputs"})

    def adopt(self, teacher, read):
        raise KdbenchError("it adopts nobody")


class SupportsIsABool(Good):
    @classmethod
    def supports(cls, params, pair):
        return True


class MuteNotes(Good):
    def notes(self):
        return [None]


PLANTED = {
    NotFinite: "the term 'good' is not finite",
    NoScalar: "the terms good are no scalars",
    HalfPrecision: r"the terms good \(torch.bfloat16\) are not computed in fp32",
    NoTerms: "must give named loss terms, a dict of tensors, not Tensor",
    TeachesTheTeacher: "a gradient reaches the teacher's logits; detach them",
    WritesOnTheTeacher: r"changes the teacher's stages\.1 in place",
    IdleProjector: r"no gradient reaches its own projector\.bias, projector\.weight",
    CrossEntropyOnly: "no term but the cross-entropy 'ce' sends a gradient to the student",
    NoGradient: "no gradient reaches the student",
    HardTargetsOnly: "fails with soft targets, at the second step: RuntimeError",
    OnceOnly: "at the second step: AssertionError: used twice",
    Forgetful: r"a run resumed from its state goes on differently \(good\)",
    Unreadable: "its state cannot be written and read again",
    SharesItsMemory: "beside another run it trains otherwise than alone",
    NoBf16: "fails in bf16 autocast: AssertionError: half a number",
    Unasked: "it fails: AttributeError",
    AsksTooMuch: r"needs\(\) asks for gradients",
    NotBuilt: "cannot be built: ValueError: no",
    ServesNobody: r"serves no pair of families \(it is shy\)",
    RefusesToAdopt: r"serves no pair of families \(it adopts nobody\)",
    SupportsIsABool: r"supports\(\) gives True, neither None nor a reason",
    MuteNotes: r"notes\(\) must give sentences",
}


def only_finding(findings, expected):
    assert len(findings) == 1, findings
    with pytest.raises(AssertionError, match=expected):
        raise AssertionError(findings[0])


def test_a_good_method_has_no_findings():
    assert check(Good, pairs=ONE_PAIR) == []


@pytest.mark.parametrize("method", PLANTED, ids=lambda m: m.__name__)
def test_planted_fault_is_found(method):
    findings = check(method, pairs=ONE_PAIR)
    only_finding(findings, PLANTED[method])
    assert method.__name__ in findings[0]
    if "no pair" not in findings[0]:
        assert "teacher-cnn -> student-vit" in findings[0]


def test_a_method_that_an_untrained_teacher_breaks_is_found():
    """timm's Mixer starts with a classifier of zeros."""

    class Standardises(Good):
        def own(self, student, teacher, target):
            return kd_loss(student.logits, teacher.logits / teacher.logits.std(dim=1, keepdim=True), 1.0)

    findings = check(Standardises, pairs=[(MODELS["teacher-mlp"], MODELS["student-cnn"])])
    only_finding(findings, "the term 'good' is not finite with an untrained teacher")


def test_a_teacher_that_is_trained_itself_is_found(monkeypatch):
    """An adopted copy that is no copy."""
    real = tiny.load_teacher

    def shared(*args):
        teacher = real(*args)
        return dataclasses.replace(teacher, copy=lambda: teacher.reader)

    monkeypatch.setattr(tiny, "load_teacher", shared)
    findings = check("c2kd", pairs=ONE_PAIR)
    assert any("the teacher's weights or statistics are changed" in finding for finding in findings)


def test_a_student_with_something_left_in_it_is_found(monkeypatch):
    class Leaving(Good):
        def own(self, student, teacher, target):
            networks[0].register_buffer("left", torch.zeros(1))
            return super().own(student, teacher, target)

    networks, real = [], train_networks.build

    def seen(spec, *args):
        model = real(spec, *args)
        if spec.name.startswith("student"):
            networks.append(model)
        return model

    monkeypatch.setattr(train_networks, "build", seen)
    assert any("the student's state has other names after training" in f for f in check(Leaving, pairs=ONE_PAIR))


# -------------------------------------------------------------------------------------------------- what the file says


def in_a_file(params=Params, **constants):
    """A good method that says it is from a file of these constants."""
    module = ModuleType(f"planted_file_{len(sys.modules)}", constants.pop("doc", "A planted file."))
    vars(module).update({"TITLE": "x", "GROUP": "logits"} | constants)
    sys.modules[module.__name__] = module
    return type("Filed", (Good,), {"__module__": module.__name__, "Params": params})


def made(name, annotation, default=dataclasses.MISSING, frozen=True):
    fields = [(name, annotation) if default is dataclasses.MISSING else (name, annotation, default)]
    return dataclasses.make_dataclass("Params", fields, frozen=frozen)


@dataclass(frozen=True)
class Contradictory:
    weight: float = 1.0

    def __post_init__(self):
        raise KdbenchError("never right")


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        (in_a_file(doc=""), "has no docstring"),
        (in_a_file(TITLE=None), "no text TITLE"),
        (in_a_file(GROUP="best"), "GROUP is 'best', not one of reference, logits"),
        (in_a_file(MARK="†"), "MARK and FOOTNOTE go together"),
        (in_a_file(MAIN_WEIGHT="beta"), "MAIN_WEIGHT is 'beta', which is no field of Params"),
        (in_a_file(TUNE_TEMPERATURE="tau"), "TUNE_TEMPERATURE is 'tau', which is no field of Params"),
        (in_a_file(params=None), "it has no dataclass Params"),
        (in_a_file(params=made("weight", "float", 1.0, frozen=False)), "Params is not frozen"),
        (in_a_file(params=made("weight", "float")), "Params.weight has no default"),
        (in_a_file(params=made("weight", "complex", 1.0)), "Params.weight is annotated 'complex'"),
        (in_a_file(params=made("weight", "float", "much")), "the default does not fit the annotation"),
        (in_a_file(params=Contradictory), "Params refuses the defaults: never right"),
        (in_a_file(PRESETS={"mdistiller": {"heavy": 1}}), "Params refuses mdistiller: .*heavy"),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_a_file_that_does_not_say_what_it_is(method, expected):
    only_finding(check(method, pairs=ONE_PAIR), expected)


def test_parameters_are_checked_too():
    only_finding(check("kd", {"temperature": 0.0}), "Params refuses these parameters: kd: temperature must be above 0")
    assert len(ALL_PAIRS) == 9
