"""Numbers that hold the versions in kdbench/versions.json: what each part of the package computes, in a few steps.

    python tests/golden.py        record the numbers of the parts whose version was raised, or that are new

Results carry versions in their keys in place of the code, so that they survive a change of code that moves no number.
tests/test_versions.py computes these numbers anew. Runs are two steps long and compared with a tolerance: after thirty
steps, logits of one convolutional network differ by 0.5 between CPUs.
"""

from __future__ import annotations

import hashlib
import importlib
import itertools
import json
import math
import os
import sys
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from clips import write_ave, write_crema_d
from matplotlib.patches import Rectangle
from matplotlib.text import Text
from PIL import Image
from test_avdigits import write_fsdd
from test_crisismmd import write_crisismmd
from test_mnist import write_mnist
from test_tokens import write_encoder

from kdbench import frequency, similarity
from kdbench.conformance import networks as tiny
from kdbench.conformance.trial import HARD, SOFT, Trial
from kdbench.data.packed import SPLITS
from kdbench.data.pictures import Pictures, View
from kdbench.data.prepare import prepare_data
from kdbench.data.raw import Files
from kdbench.data.shards import write_shards
from kdbench.data.sources import avdigits, mnist
from kdbench.plan import keys
from kdbench.plan.jobs import Run
from kdbench.plan.keys import VERSIONS, all_parts, own_networks
from kdbench.plan.registry import load_method, method_info
from kdbench.plan.suite import load_suite
from kdbench.run import tune
from kdbench.signals import Reader, example
from kdbench.train import engine, networks
from kdbench.train.batches import Batches
from kdbench.train.cohort import Cohort
from kdbench.types import DataSpec, MethodSpec, ModelSpec, Pair, Recipe

GOLDENS = Path(__file__).parent / "data/goldens.json"
REPOSITORY = Path(__file__).resolve().parent.parent
TOLERANCE = {"rtol": 1e-4, "atol": 1e-5}
EXACT = {"rtol": 0.0, "atol": 0.0}
WIDER = {"method pkt": {"rtol": 2e-3, "atol": 1e-5}, "method mfh": {"rtol": 1e-4, "atol": 0.1}}
"""PKT's loss is 30,000 times a difference of nearly equal sums; MFH takes the channels that come last in an order."""
DECODED = {"streaming": {"rtol": 0.0, "atol": 0.05}}
"""Decoders may round otherwise; a grey level is 0.02."""
NARROWER = {"tables": EXACT, "figures": {"rtol": 1e-6, "atol": 1e-7}}
"""Nothing is trained, and words are numbers of which every digit counts."""
GREY_LEVEL = {"rtol": 0.0, "atol": 1.0}
"""Of sources: decoders and font renderers may round otherwise."""
SGD = Recipe("golden", lr=1e-4, min_lr=1e-4, optimizer="sgd", steps=8, batch_size=tiny.BATCH, warmup=0.0)
"""Of methods. AdamW's first step is the sign of the gradient, and a large one of a large loss leads anywhere: in both
the last bits of a CPU would show."""
RECORD = "run: python tests/golden.py"
Numbers = dict[str, list[float]]


def numbers(tensor: Any) -> list[float]:
    """Some of a tensor's values, spread over it, and its mean and root mean square."""
    flat = torch.as_tensor(np.asarray(tensor.detach() if torch.is_tensor(tensor) else tensor)).double().flatten()
    some = flat[torch.linspace(0, len(flat) - 1, min(len(flat), 6)).long()]
    return [*some.tolist(), flat.mean().item(), flat.square().mean().sqrt().item()]


# -------------------------------------------------------------------------------------------------- engine and methods


class Noise:
    """As much of a packed data set as Batches reads."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.arrays = {split: rng.integers(0, 256, (24, 8, 8, 3), dtype=np.uint8) for split in SPLITS}
        facts = {"kind": "image", "shape": [8, 8, 3], "mean": [0.5, 0.4, 0.6], "std": [0.2, 0.3, 0.25]}
        self.meta = {"class_names": list("abc"), "modalities": {"image": facts}}

    def array(self, modality: str, split: str) -> np.ndarray:
        return self.arrays[split]

    def labels(self, split: str) -> np.ndarray:
        return np.arange(24) % 3


def _engine() -> Numbers:
    """Two steps of scratch on each family, with both optimizers, both schedules and all that a recipe does itself."""
    recipes = {
        "adamw": Recipe("r", lr=1e-2, min_lr=1e-3, steps=2, batch_size=8, warmup=0.5, clip_grad=0.5),
        "sgd": Recipe("r", lr=1e-1, optimizer="sgd", milestones=(0.5,), steps=2, batch_size=8, label_smoothing=0.1),
        "plain": Recipe("r", lr=1e-1, optimizer="sgd", nesterov=False, decay_all=True, steps=2, batch_size=8),
    }
    found: Numbers = {}
    for family, (name, recipe) in itertools.product(tiny.FAMILIES, recipes.items()):
        spec = tiny.MODELS[f"student-{family}"]
        outcome = _trained(spec, recipe)
        last = outcome.record["history"][-1]
        found[f"{family} {name}"] = [*numbers(outcome.logits["test"]), last["losses"]["ce"], last["lr"]]
        found[f"{family} {name} weights"] = [
            math.sqrt(sum(v.double().square().sum().item() for v in outcome.weights.values()))
        ]
        found[f"{family} stages"] = [float(n) for shape in _side(spec).stages for n in shape]
    return found


def _trained(spec: ModelSpec, recipe: Recipe) -> engine.Outcome:
    method = MethodSpec("scratch", "scratch", {"teacher": False}, "Scratch", "reference")
    run = Run(Pair(None, spec.name), method, 0, "d", False, {}, "", Path())
    batches = Batches(Noise(), {"image"}, torch.device("cpu"))
    cohort = Cohort(spec, recipe, batches, torch.device("cpu"), 0)
    outcomes: list[engine.Outcome] = []
    with tempfile.TemporaryDirectory() as folder:
        engine.train_cohort(cohort, [run], Path(folder, "checkpoint"), outcomes.append, lambda *_, **__: None)
    (outcome,) = outcomes
    return outcome


def _step(key: str) -> Numbers:
    """Two epochs of three steps (of one, where it accumulates) of scratch, the first of them warm-up."""
    value = {"lr_per": 16, "accumulate": 3, "warmup_epochs": 1, "poly": 0.9, "ema_decay": 0.5}[key]
    beside = {"warmup": 0.0} if key == "poly" else {}
    recipe = Recipe("r", lr=1e-1, optimizer="sgd", epochs=2, batch_size=8, **beside, **{key: value})
    outcome = _trained(tiny.MODELS["student-vit"], recipe)
    names = ("lr", "test_nll", "ema_test_nll")
    history = [[epoch[name] for name in names if name in epoch] for epoch in outcome.record["history"]]
    return {"logits": numbers(outcome.logits["test"]), "history": list(itertools.chain(*history))}


def _side(spec: ModelSpec) -> Any:
    return networks.reader(spec, tiny.SHAPE, 3, 0).side


def _variants(name: str) -> dict[str, dict[str, Any]]:
    """The settings of a method that its file or a suite of this repository names."""
    info = method_info(name)
    found: dict[str, dict[str, Any]] = {"default": {}, **{f"preset {k}": v for k, v in info.presets.items()}}
    found |= {f"{key} {value}": {key: value} for key, values in info.readings.items() for value in values}
    suites = [load_suite(path) for path in sorted((REPOSITORY / "config").glob("*.yaml"))]
    for spec in (spec for suite in suites for block in suite.blocks for spec in block.methods if spec.method == name):
        changed = {k: v for k, v in spec.params.items() if v != info.params[k].default}
        if changed and changed not in found.values():
            found[json.dumps(changed)] = changed
    return found


def _method(name: str) -> Numbers:
    """Terms of a step with hard and of one with soft targets and the weights after them, on three pairs of families."""
    found: Numbers = {}
    cls = load_method(name)
    for label, changed in _variants(name).items():
        for number in (1, 5, 6):  # cnn -> vit, vit -> mlp, mlp -> cnn
            teacher, student = tiny.pairs_for(cls)[number]
            where, params = f"{label}: {teacher.name[8:]} to {student.name[8:]}", cls.Params(**changed)
            trial = Trial(cls, params, tiny.tiny_cohort(params, teacher, student, recipe=SGD))
            member = trial.new_member()
            if member is None:
                found[where] = []  # not served
                continue
            for step in (HARD, SOFT):
                terms = trial.step(member, step)
                assert terms, f"{name}, {where}: {trial.findings}"
                found[f"{where}, step {step}"] = [terms[key].item() for key in sorted(terms)]
            found[where] = [
                math.sqrt(sum(p.double().square().sum().item() for p in module.parameters()))
                for module in (member.model, member.distiller)
            ]
    return found


# ------------------------------------------------------------------------------------------------------------ the rest


def _source(name: str) -> Numbers:
    """Twenty samples of each modality of what a source builds by default, or of files made for it."""
    sums = patch.dict(mnist.FILES), patch.object(avdigits, "RECORDINGS_SHA256")
    with tempfile.TemporaryDirectory() as folder, sums[0], sums[1]:
        arguments = _files(name, Path(folder))
        raw = importlib.import_module(f"kdbench.data.sources.{name}").build(**arguments, data_dir=Path(folder))
        found: Numbers = {f"labels {split}": raw.labels[split][:20].astype(float).tolist() for split in SPLITS}
        for modality, splits in raw.modalities.items():
            for split in SPLITS:
                images = splits[split]
                if isinstance(images, Files):
                    written = write_shards(Path(folder), f"{modality}-{split}", images, lambda *_, **__: None)
                    pictures = Pictures(Path(folder), f"{modality}-{split}", written.index, images.size)
                    images = pictures[np.arange(len(images))]
                found[f"{modality} {split}"] = [
                    value for image in images[:20] for value in (image.astype(float).mean(), float(image.flat[17]))
                ]
    return found


def _files(name: str, folder: Path) -> dict[str, Any]:
    """Small files that a source may read, and the arguments with which it does."""
    rng = np.random.default_rng(0)
    if name == "digits":
        return {}
    if name == "glyphs":
        return {"classes": 10, "train": 20, "val": 20, "test": 20}
    if name in ("imagefolder", "jpegfolder"):
        for split, label, i in itertools.product(("train", "test"), ("a", "b"), range(12)):
            place = folder / "pictures" / split / label
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (20, 24, 3), dtype=np.uint8)).save(place / f"{i}.png")
        return {"size": 16} if name == "imagefolder" else {"size": 16, "short_side": 18}
    if name == "mnist":
        write_mnist(folder / "mnist", train=40, test=20)
        return {"val_share": 0.25}
    if name == "avdigits":
        write_mnist(folder / "mnist", train=400, test=320)
        write_fsdd(folder / "fsdd")
        return {"images_per_recording": 1, "train_recordings": 1, "energy": 0.5, "noise": 0.3, "babble": 0.0}
    if name == "cremad":
        write_crema_d(folder / "crema-d")
        return {"val_share": 0.2}
    if name == "ave":
        write_ave(folder / "ave")
        return {}
    if name == "crisismmd":
        write_crisismmd(folder / "CrisisMMD_v2.0", {"train": 30, "dev": 10, "test": 10})
        return {"size": 8, "length": 18, "vocabulary": 20}
    classes, size, file = {"cifar10": (10, 32, "cifar10"), "cifar100": (100, 32, "cifar100"), "npz": (3, 9, "data")}[
        name
    ]
    arrays = {}
    for split in ("train", "test"):
        arrays[f"{split}_images"] = rng.integers(0, 256, (4 * classes, size, size, 3), dtype=np.uint8)
        arrays[f"{split}_labels"] = np.arange(4 * classes) % classes
    np.savez(folder / f"{file}.npz", **arrays)
    return {"val_share": 0.25}


def _augmentation(key: str) -> Numbers:
    special = {"crop": 2, "flip": True, "rand_augment": 9, "auto_augment": "rand-m9-mstd0.5-inc1"}
    beside = {"mixup": 0.4, "cutmix": 0.4} if key.startswith("mixup_") else {}
    recipe = Recipe("r", lr=0.1, steps=1, batch_size=8, **beside, **{key: special.get(key, 0.4)})
    batches = Batches(Noise(), {"image"}, torch.device("cpu"))
    found: Numbers = {}
    for step in (0, 1):
        inputs, target = batches.train(torch.arange(8), recipe, 0, step)
        found[f"inputs {step}"], found[f"target {step}"] = numbers(inputs["image"]), numbers(target)
    return found


def _streaming() -> Numbers:
    """Two augmented batches of pictures of a folder that differ in size, and their evaluation by two views."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = _files("jpegfolder", Path(folder))
        pack = prepare_data(DataSpec("d", "jpegfolder", arguments), Path(folder, "pack"), Path(folder))
        return _shown(pack)


def _enlarging() -> Numbers:
    """The same of arrays of 8 pixels that networks read at 20."""
    pack = Noise()
    pack.meta["modalities"]["image"]["shape"] = [20, 20, 3]
    return _shown(pack)


def _shown(pack: Any) -> Numbers:
    batches = Batches(pack, {"image"}, torch.device("cpu"))
    found: Numbers = {}
    for step, changes in enumerate(({"resized_crop": 0.2, "interpolation": "random"}, {})):
        recipe = Recipe("r", lr=0.1, steps=2, batch_size=8, **changes)
        found[f"inputs {step}"] = numbers(batches.train(torch.arange(8), recipe, 0, step)[0]["image"])
    for view in (View(), View(0.8, "bilinear")):
        name = f"View(crop={view.crop}, interpolation={view.interpolation!r})"
        found[name] = numbers(torch.cat(list(batches.evaluation("image", "test", view=view))))
    return found


def _normalisation() -> Numbers:
    """One batch as two networks read it, and the test images as one of them does."""
    batches, recipe = Batches(Noise(), {"image"}, torch.device("cpu")), Recipe("r", lr=0.1, steps=1, batch_size=8)
    x, own = batches.train(torch.arange(8), recipe, 0, 0)[0]["image"], View(mean=(0.5, 0.6, 0.4), std=(0.5, 0.25, 0.2))
    found = {"data": x, "own": batches.renormalised("image", x, own)}
    found["test"] = torch.cat(list(batches.evaluation("image", "test", view=own)))
    return {name: numbers(read) for name, read in found.items()}


def _network(name: str) -> Numbers:
    side = 28 if name.startswith("mnist_") else 32
    shape = (1, 16, 25) if own_networks()[name] == "text_networks" else (side, side, 3)
    with tempfile.TemporaryDirectory() as folder:
        args = {"name": str(write_encoder(Path(folder)))} if name == "huggingface" else {}
        model = networks.build(ModelSpec(name, name, "d", "r", args=args, family="cnn"), shape, 5, 0).train()
    if shape[0] == 1:
        x = example(model, shape, 8) * (torch.arange(16) < torch.arange(9, 17).view(8, 1, 1, 1))
    else:
        x = torch.randn(8, 3, side, side, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)  # of dropout
    with torch.no_grad():
        return {"logits": numbers(model(x)), "weights": numbers(torch.cat([p.flatten() for p in model.parameters()]))}


def _head_convolution() -> Numbers:
    model = networks.build(ModelSpec("m", "mobilenetv2_050", "d", "r", family="cnn"), (64, 64, 3), 5, 0).eval()
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return {"stage 4": numbers(Reader(model, (64, 64, 3), "cnn")(x).stages[-1])}


def _frequency() -> Numbers:
    maps = torch.randn(2, 6, 9, 8, generator=torch.Generator().manual_seed(0))
    low, high = frequency.split_channels(maps.mean((2, 3)))
    return {"low channels": numbers(low), "high channels": numbers(high)}


def _similarity() -> Numbers:
    rng = torch.Generator().manual_seed(0)
    a = tuple(torch.randn(24, 6, 8, 8, generator=rng) for _ in range(4))
    b = tuple(torch.randn(24, 5, 16, 16, generator=rng) for _ in range(4))
    x, y = torch.randn(24, 12, generator=rng), torch.randn(24, 12, generator=rng)
    rows = similarity.stage_similarity(a, b, permutations=3, seed=0)
    rows += similarity.channel_similarity(x, y, torch.arange(24) % 3, seed=0)
    rows.append(similarity.radial_power(b[0]))
    rows.append({"channel mean": similarity.channel_mean_share(x)})
    rows += similarity.channel_cka(x, y, permutations=3, seed=0)
    rows += similarity.rotated_similarity(y, x, x, y, draws=3, seed=0)
    return {str(i): _floats(row) for i, row in enumerate(rows)}


def _floats(value: Any) -> list[float]:
    if isinstance(value, dict):
        return [n for key in sorted(value) for n in _floats(value[key])]
    if isinstance(value, list | tuple):
        return [n for v in value for n in _floats(v)]
    return [float(value)] if isinstance(value, int | float) else []


def _tune() -> Numbers:
    def tried(*values: float | None) -> list[dict[str, Any]]:
        return [{"factor": f, "value": f, "val": v} for f, v in zip((0.1, 0.3, 1.0, 3.0), values, strict=True)]

    cases = (tried(1, 2, 3, 4), tried(4, 4, 4, 4), tried(None, 5, None, 5), tried(None, None, None, None))
    return {str(i): [tune.best(case)["factor"]] for i, case in enumerate(cases)}


def _tables() -> Numbers:
    """Every line of the tables of a made-up block in both layouts, as a number."""
    import test_tables

    from kdbench.report.page import markdown

    found = {}
    for layout in ("pairs", "methods"):
        suite, block, frame = test_tables.make(layout=layout)
        frame = test_tables.change(frame, "cnn-t--cnn-s", "ofa", 1, status="diverged", reason="step 3")
        found[f"{layout} markdown"] = _lines(markdown(test_tables.described(suite, block, frame)))
        found |= {f"{layout} {name}": _lines(tex) for name, tex in test_tables.paper(suite, block, frame).items()}
    return found


def _lines(text: str) -> list[float]:
    return [float(zlib.crc32(line.encode()) % 1_000_000) for line in text.splitlines()]


def _figures() -> Numbers:
    """Words and numbers of every kind of figure of a made-up block."""
    import test_figures

    found: Numbers = {}
    for kind, figure in test_figures.one_of_each().items():
        # Automatic ticks have no text before they are drawn, and belong to matplotlib.
        texts = (" ".join(text.get_text().split()) for text in figure.findobj(Text))
        found[f"{kind} words"] = _lines("\n".join(filter(None, texts)))
        found[f"{kind} numbers"] = [n for axes in figure.axes for array in _arrays(axes) for n in numbers(array)]
    return found


def _arrays(axes: Any) -> list[np.ndarray]:
    """What is drawn in a panel, in the units of its data: lines, whiskers and bands, bars, heat maps."""
    if axes.get_label() == "<colorbar>":
        return []
    found = [line.get_xydata() for line in axes.get_lines()]
    found += [path.vertices for collection in axes.collections for path in collection.get_paths()]
    found += [patch.get_bbox().get_points() for patch in axes.patches if isinstance(patch, Rectangle)]
    found += [image.get_array().filled(np.nan) for image in axes.get_images()]
    return [np.nan_to_num(array) for array in found if np.size(array)]


WHOLE: dict[str, Callable[[], Numbers]] = {
    "engine": _engine,
    "head-convolution": _head_convolution,
    "streaming": _streaming,
    "enlarging": _enlarging,
    "normalisation": _normalisation,
    "frequency": _frequency,
    "similarity": _similarity,
    "tune": _tune,
    "tables": _tables,
    "figures": _figures,
}
KINDS: dict[str, Callable[[str], Numbers]] = {
    "method": _method,
    "source": _source,
    "augmentation": _augmentation,
    "step": _step,
    "network": _network,
}


def compute(part: str) -> Numbers:
    """The numbers of a part: "engine", "method kd", "source digits"."""
    kind, _, name = part.partition(" ")
    with torch.random.fork_rng(devices=[]):
        found = KINDS[kind](name) if name else WHOLE[kind]()
    return {key: [float(f"{value:.7g}") for value in values] for key, values in found.items()}


def moved(part: str, before: Numbers, now: Numbers) -> list[str]:
    """The keys under which the numbers of a part differ by more than two CPUs may.

    Of a method only settings that are recorded are compared: a suite with one more, or one less, moves no result.
    """
    tolerance = GREY_LEVEL if part.startswith("source") else (WIDER | NARROWER | DECODED).get(part, TOLERANCE)
    keys = [*before, *(key for key in now if key not in before)]
    if part.startswith("method"):
        keys = [key for key in before if key in now] or keys
    return [
        key
        for key in keys
        if key not in before
        or key not in now
        or len(before[key]) != len(now[key])
        or not np.allclose(before[key], now[key], equal_nan=True, **tolerance)
    ]


def verdict(part: str, entry: dict[str, Any], golden: dict[str, Any] | None, now: Numbers) -> str | None:
    """What is wrong between a part's version, its recorded numbers and those of today; None where nothing is."""
    if golden is None:
        return f"{part} has no recorded numbers; {RECORD}"
    changed = moved(part, golden["numbers"], now)
    version, before = entry["version"], golden["version"]
    if version < before:
        return f"the version of {part} fell from {before} to {version}: results would be mixed"
    if version == before and changed:
        return (
            f"{part} computes other numbers ({changed[0]}): raise its version in {VERSIONS.name}, say why, and {RECORD}"
        )
    if version == before and entry["digest"] != digest(golden["numbers"]):
        return f"the digest of {part} is not that of its recorded numbers; {RECORD}"
    if version > before and not changed and not entry.get("unseen"):
        return f"the version of {part} rose and none of its numbers moved: put it back, or say what they miss (unseen)"
    return f"the version of {part} rose; {RECORD}" if version > before else None


def digest(found: Numbers) -> str:
    return hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()[:12]


def read() -> dict[str, dict[str, Any]]:
    return json.loads(GOLDENS.read_text()) if GOLDENS.exists() else {}


def main() -> int:
    """Record what was raised or is new; refuse where numbers moved unsaid."""
    versions, goldens, refused = keys.versions(), read(), 0
    for part in all_parts():
        now = compute(part)
        entry = versions.setdefault(part, {"version": 1, "digest": "", "why": "the first"})
        wrong = verdict(part, entry, goldens.get(part), now)
        if wrong and wrong.endswith(RECORD) and "other numbers" not in wrong:
            goldens[part] = {"version": entry["version"], "numbers": now}
            entry["digest"] = digest(now)
            print(f"recorded {part}, version {entry['version']}")
        elif wrong:
            refused += 1
            print(wrong, file=sys.stderr)
    for path, tree in ((GOLDENS, goldens), (VERSIONS, versions)):
        lines = (f"{json.dumps(part)}: {json.dumps(tree[part])}" for part in sorted(set(tree) & set(all_parts())))
        path.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    return 1 if refused else 0


if __name__ == "__main__":
    sys.exit(main())
