"""A training script in the style of the field's code, which `python -m speed field` holds the cohort against.

One method a process: 32-bit floats, a DataLoader whose workers transform PIL images one by one, the teacher run anew,
an optimizer that is not fused, and meters that read the loss and the accuracies after every step. Networks, initial
weights, losses, recipe and data are kdbench's, so the mathematics is the same and only the machinery differs; the
order of samples and the augmentation are drawn from the same distributions by other random numbers.

    python -m speed.script SUITE.yaml TEACHER--STUDENT METHOD --seed 0 --workers 2 --threads 2

Reads the data and the teacher that `kdbench data` and `kdbench teacher` have left in results/; prints one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

import kdbench.torchvision_ops  # noqa: F401
from kdbench.data.packed import Packed, load_packed
from kdbench.plan.jobs import make_plan
from kdbench.results.record import load_weights

# isort: split
from torchvision import transforms

from kdbench.methods.base import Distiller
from kdbench.plan.jobs import Plan
from kdbench.plan.paths import data_folder
from kdbench.plan.registry import load_method
from kdbench.plan.suite import load_suite
from kdbench.signals import Reader
from kdbench.train import networks as zoo
from kdbench.train.cohort import PREPARE_SAMPLES, learning_rate
from kdbench.train.order import stream
from kdbench.types import PairShapes, Recipe, Signals


def main(argv: list[str] | None = None) -> None:
    """Train one method on one pair and print what it cost and how well it did."""
    parser = argparse.ArgumentParser()
    parser.add_argument("suite")
    parser.add_argument("pair")
    parser.add_argument("method")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    device = torch.device(args.device)
    plan = make_plan(load_suite(args.suite))
    teacher_name, student_name = args.pair.split("--")
    spec = plan.suite.models[student_name]
    recipe = plan.suite.recipes[spec.recipe]
    pack = load_packed(data_folder(plan.suite, spec.data, plan.suite.seeds[0]))

    loaders = {
        split: DataLoader(
            Images(pack, spec.input, split, transform(pack, spec.input, recipe if split == "train" else None)),
            batch_size=recipe.batch_size,
            shuffle=split == "train",
            drop_last=split == "train",
            num_workers=args.workers,
            pin_memory=device.type == "cuda",
        )
        for split in ("train", "test")
    }
    student, teacher, distiller = networks(plan, pack, teacher_name, student_name, args.method, args.seed, device)
    if distiller.wants_prepare:
        plain = Images(pack, spec.input, "train", transform(pack, spec.input, None))
        distiller.prepare(teacher_pass(teacher, DataLoader(plain, 256, num_workers=args.workers), device))
    optimizer = new_optimizer(recipe, student.model, distiller)

    started, total = time.perf_counter(), recipe.epochs * len(loaders["train"])
    data_time, step_time, losses = Meter(), Meter(), Meter()
    for epoch in range(recipe.epochs):
        student.model.train()
        end = time.perf_counter()
        for i, (images, target, index) in enumerate(loaders["train"]):
            images = images.to(device, non_blocking=True)
            target = target.to(device, non_blocking=True)
            index = index.to(device, non_blocking=True)
            data_time.update(time.perf_counter() - end)
            step = epoch * len(loaders["train"]) + i
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(recipe, step, total)
            terms, logits = losses_of(student, teacher, distiller, images, target, index, step / total)
            loss = sum(terms.values())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.update(loss.item())
            correct_of(logits, target)
            step_time.update(time.perf_counter() - end)
            end = time.perf_counter()
        accuracy = evaluate(student.model, loaders["test"], device)
        print(f"epoch {epoch + 1}: loss {losses.average:.4f}, test accuracy {accuracy:.2f} %", file=sys.stderr)
    report = {
        "loop_seconds": time.perf_counter() - started,
        "training_seconds": step_time.sum,
        "data_seconds": data_time.sum,
        "steps": total,
        "test_accuracy": accuracy,
    }
    print(json.dumps(report))


class Images(Dataset):
    """Images of one split as PIL hands them out, transformed one by one: (image, class, position)."""

    def __init__(self, pack: Packed, modality: str, split: str, transform: Any) -> None:
        self.images, self.labels = np.array(pack.array(modality, split)), pack.labels(split).tolist()
        self.transform = transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> tuple[Tensor, int, int]:
        pixels = self.images[i]
        image = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
        return self.transform(image), self.labels[i], i


def transform(pack: Packed, modality: str, recipe: Recipe | None) -> transforms.Compose:
    """Crop and flip as the recipe says (None: no augmentation), then a normalised tensor."""
    facts = pack.meta["modalities"][modality]
    steps: list[Any] = []
    if recipe and recipe.crop:
        steps.append(transforms.RandomCrop(facts["shape"][:2], padding=recipe.crop))
    if recipe and recipe.flip:
        steps.append(transforms.RandomHorizontalFlip())
    return transforms.Compose([*steps, transforms.ToTensor(), transforms.Normalize(facts["mean"], facts["std"])])


class Meter:
    """Sum and average of what it is told."""

    def __init__(self) -> None:
        self.sum, self.count = 0.0, 0

    def update(self, value: float, n: int = 1) -> None:
        self.sum += value * n
        self.count += n

    @property
    def average(self) -> float:
        return self.sum / max(1, self.count)


def networks(
    plan: Plan, pack: Packed, teacher_name: str, student_name: str, method_name: str, seed: int, device: Any
) -> tuple[Reader, Reader | None, Distiller]:
    """Student, teacher (None for a method without one) and method, on the device, as they are before the first step."""
    method_spec = next(m for block in plan.suite.blocks for m in block.methods if m.id == method_name)
    method = load_method(method_spec.method)
    params = method.Params(**method_spec.params)
    needs, classes = method.needs(params), len(pack.meta["class_names"])

    def read(name: str, weights: dict[str, Tensor] | None = None) -> Reader:
        spec = plan.suite.models[name]
        shape = tuple(pack.meta["modalities"][spec.input]["shape"])
        reader = zoo.reader(spec, shape, classes, seed, needs, weights)
        reader.model.to(device)
        return reader

    student, teacher = read(student_name), None
    if method_spec.needs_teacher:
        teacher = read(teacher_name, load_weights(plan.teacher(teacher_name, seed)))
        teacher.model.requires_grad_(False).eval()
    torch.manual_seed(stream(seed, "method", method_name))
    labels = tuple(pack.labels("train").tolist())
    distiller = method(params, PairShapes(student.side, teacher and teacher.side, classes, labels))
    return student, teacher, distiller.to(device)


def losses_of(
    student: Reader,
    teacher: Reader | None,
    distiller: Distiller,
    images: Tensor,
    target: Tensor,
    index: Tensor,
    progress: float,
) -> tuple[dict[str, Tensor], Tensor]:
    """Named loss terms of one batch (B, C, H, W), and the student's logits (B, classes)."""
    shown = None
    if teacher:
        with torch.no_grad():
            shown = teacher(images, index)
    signals = student(images, index)
    return distiller(signals, shown, target, progress), signals.logits


def teacher_pass(teacher: Reader, loader: DataLoader, device: torch.device) -> Iterator[Signals]:
    """The teacher's signals over un-augmented training images, as many as the engine shows a method."""
    seen = 0
    with torch.no_grad():
        for images, _, _ in loader:
            images = images[: PREPARE_SAMPLES - seen]
            seen += len(images)
            yield teacher(images.to(device))
            if seen >= PREPARE_SAMPLES:
                return


def new_optimizer(recipe: Recipe, model: nn.Module, distiller: nn.Module) -> torch.optim.Optimizer:
    """As the recipe says; matrices and kernels decay, the rest does not."""
    exempt = set(getattr(model, "no_weight_decay", set)())
    named = [*((p, n in exempt) for n, p in model.named_parameters()), *((p, False) for p in distiller.parameters())]
    groups = [
        {"params": [p for p, free in named if p.ndim > 1 and not free], "weight_decay": recipe.weight_decay},
        {"params": [p for p, free in named if p.ndim <= 1 or free], "weight_decay": 0.0},
    ]
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(groups, recipe.lr, momentum=recipe.momentum, nesterov=recipe.momentum > 0)
    return torch.optim.AdamW(groups, recipe.lr)


def correct_of(logits: Tensor, target: Tensor) -> tuple[float, float]:
    """Percent of a batch whose class is the first, and among the first five, of the logits."""
    order = logits.topk(min(5, logits.shape[1]), dim=1).indices == target.unsqueeze(1)
    return 100 * order[:, :1].sum().item() / len(target), 100 * order.sum().item() / len(target)


@torch.no_grad()
def evaluate(model: nn.Module, loader: DataLoader, device: torch.device) -> float:
    """Accuracy of a split in percent."""
    model.eval()
    meter = Meter()
    for images, target, _ in loader:
        top1, _ = correct_of(model(images.to(device)), target.to(device))
        meter.update(top1, len(target))
    return meter.average


if __name__ == "__main__":
    main()
