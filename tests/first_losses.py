"""What mdistiller's distillers say of a first batch, from weights that are ours.

    python tests/first_losses.py FOLDER      record tests/data/first_losses.json, from a copy of mdistiller in FOLDER

Two of the field's CIFAR networks with the weights of a seed, one batch of random images, and methods with the settings
of mdistiller. Weights, projectors, memory banks and negatives are carried over to mdistiller's own modules, which then
compute their losses; nothing of its code is here. tests/methods/test_first_losses.py holds ours to these numbers. All
is in fp64, so that they are the same on every machine.
"""

from __future__ import annotations

import json
import sys
import types
from collections.abc import Mapping
from pathlib import Path
from unittest.mock import patch

import torch
from torch import Tensor, nn

from kdbench.methods.base import Distiller
from kdbench.plan.registry import load_method, method_info
from kdbench.train import networks
from kdbench.train.order import generator, stream
from kdbench.types import ModelSpec, PairShapes, Signals

FILE = Path(__file__).parent / "data/first_losses.json"
REPOSITORY, COMMIT = "megvii-research/mdistiller", "a08d46f10d6102bd6e3f258ca5ac880b020ea259"
CLASSES, BATCH, TRAINED, NEGATIVES = 100, 16, 1000, 64
METHODS = {
    "kd": {},
    "dkd": {},
    "crd": {"negatives": NEGATIVES},
    "fitnet": {"hint_stage": 3},  # its hint layer 2
    "rkd": {},
    "sp": {},
    "pkt": {},
}
"""Parameters besides those of the preset `mdistiller`."""
WARM = 20 / 240
"""Share of the training after which DKD has its full weight: before, it rises by steps here and by epochs there."""


def read(side: str) -> tuple[networks.Reader, Signals]:
    """The student or the teacher and what it shows of the batch, in the mode in which it would train or look on."""
    names = {"student": "cifar_resnet8x4", "teacher": "cifar_wrn_16_2"}
    reader = networks.reader(ModelSpec(side, names[side], "cifar"), (32, 32, 3), CLASSES, seed=0)
    reader.model.double().train(side == "student")
    index = torch.arange(0, 10 * BATCH, 10)
    with torch.no_grad():
        return reader, reader(images(), index)


def images() -> Tensor:
    """(B, 3, 32, 32)."""
    return torch.randn(BATCH, 3, 32, 32, generator=generator("first losses"), dtype=torch.float64)


def target() -> Tensor:
    """(B,)."""
    return torch.arange(0, 10 * BATCH, 10) % CLASSES


def distiller(name: str, student: networks.Reader, teacher: networks.Reader) -> Distiller:
    """A method with mdistiller's settings; what it draws follows from its name."""
    method = load_method(name)
    params = method.Params(**method_info(name).presets["mdistiller"], **METHODS[name])
    torch.manual_seed(stream("first losses", name))
    labels = tuple(i % CLASSES for i in range(TRAINED))
    return method(params, PairShapes(student.side, teacher.side, CLASSES, labels)).double()


def drawing(name: str) -> None:
    """Torch's global RNG as it is before a method draws for the batch."""
    torch.manual_seed(stream("first losses", name, "batch"))


# ------------------------------------------------------------------------------------------------------------- theirs


def theirs(folder: Path) -> dict[str, dict[str, float]]:
    """{method: {term: value}} as mdistiller computes them."""
    stub = types.ModuleType("yacs.config")
    stub.CfgNode = type("CfgNode", (types.SimpleNamespace,), {})
    helpers = types.ModuleType("mdistiller.engine.utils")
    helpers.log_msg = None
    sys.modules |= {"yacs": types.ModuleType("yacs"), "yacs.config": stub, "mdistiller.engine.utils": helpers}
    sys.modules["mdistiller.engine"] = engine = types.ModuleType("mdistiller.engine")
    engine.__path__ = [str(folder / "mdistiller/engine")]
    sys.path.insert(0, str(folder))
    from mdistiller.distillers import distiller_dict
    from mdistiller.distillers.CRD import AliasMethod
    from mdistiller.engine.cfg import CFG
    from mdistiller.models.cifar import cifar_model_dict

    (student, _), (teacher, _) = readers = read("student"), read("teacher")
    networks_there = [
        carried(reader.model.state_dict(), cifar_model_dict[name][0](num_classes=CLASSES))
        for (reader, _), name in zip(readers, ("resnet8x4", "wrn_16_2"), strict=True)
    ]
    CFG.CRD.FEAT.STUDENT_DIM, CFG.CRD.FEAT.TEACHER_DIM, CFG.CRD.NCE.K = 256, 128, NEGATIVES
    index, found = torch.arange(0, 10 * BATCH, 10), {}
    for name in METHODS:
        ours = distiller(name, student, teacher)
        more = {"num_data": TRAINED} if name == "crd" else {}
        torch.set_default_dtype(torch.float64)  # FitNet's probes its networks with an image of its own
        with patch.object(AliasMethod, "cuda", lambda self: None):
            there = distiller_dict[name.upper()](*networks_there, CFG, **more).double()
        torch.set_default_dtype(torch.float32)
        given = {"image": images(), "target": target(), "epoch": CFG.DKD.WARMUP}
        if name == "fitnet":
            carried(ours.projectors.state_dict(), there.conv_reg)
        if name == "crd":
            carried(ours.embed_student.state_dict(), there.embed_s)
            carried(ours.embed_teacher.state_dict(), there.embed_t)
            # Its first bank is of student embeddings, its second of teacher embeddings.
            there.contrast.memory_v1.copy_(ours.contrast.memory_student)
            there.contrast.memory_v2.copy_(ours.contrast.memory_teacher)
            drawing(name)
            drawn = ours.draw(index, NEGATIVES)
            given |= {"index": index, "contrastive_index": torch.cat([index[:, None], drawn], dim=1)}
        _, losses = there.train()(**given)
        found[name] = {term.removeprefix("loss_"): value.item() for term, value in losses.items()}
    return found


def carried(weights: Mapping[str, Tensor], module: nn.Module) -> nn.Module:
    """The module with these weights, which stand in the order of its own."""
    own = module.state_dict()
    assert [w.shape for w in weights.values()] == [w.shape for w in own.values()]
    module.load_state_dict(dict(zip(own, weights.values(), strict=True)))
    return module.double()


if __name__ == "__main__":
    provenance = {"repository": REPOSITORY, "commit": COMMIT, "torch": torch.__version__}
    FILE.write_text(json.dumps(provenance | {"losses": theirs(Path(sys.argv[1]))}, indent=1) + "\n")
