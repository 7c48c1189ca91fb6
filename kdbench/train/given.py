"""Weights that a teacher does not get from the seed: timm's, or those of a file.

A file is read as tensors alone (weights_only), so that nothing in it runs, and must fill its network to the last
tensor: timm takes off the wrappers (`state_dict`, `model`, `module.`) and renames the keys of its older versions.
"""

from __future__ import annotations

import argparse
import importlib
import textwrap
import time
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kdbench.files import fetch, is_url, sha256_file
from kdbench.plan.jobs import Run
from kdbench.plan.paths import weights_file
from kdbench.signals import classifiers
from kdbench.train import networks
from kdbench.train.cohort import Cohort
from kdbench.train.engine import Outcome, accuracy, peak_memory_mb
from kdbench.types import KdbenchError, ModelSpec


def given_weights(
    spec: ModelSpec, shape: tuple[int, int, int], classes: int, seed: int
) -> tuple[dict[str, Tensor], str]:
    """The weights that a model starts with, whole for its network on these data, and the sha256 of their file.

    shape: (H, W, C) of one input. The classifier of a model that its recipe will train comes from the seed where the
    file's is for another number of classes. Raises KdbenchError for a file that is not there, of another sha256, of
    anything but tensors, or that does not fit.
    """
    path = _timm_file(spec) if spec.pretrained else weights_file(spec)
    if spec.weights is not None and is_url(spec.weights):
        fetch(spec.weights, path, spec.sha256)
    try:
        found = sha256_file(path)
    except OSError as error:
        raise KdbenchError(
            f"models.{spec.name}.weights: cannot read {path} from {Path.cwd()}: {error.strerror}"
        ) from None
    if spec.sha256 not in (None, found):
        raise KdbenchError(f"models.{spec.name}: {path} has the sha256 {found}, not the {spec.sha256} of the suite")
    weights = _read(path, spec)
    if spec.pretrained:
        import timm

        theirs = timm.get_pretrained_cfg(spec.timm).num_classes  # timm loads strictly where classes are its own
        weights = networks.build(spec, shape, theirs, seed, pretrained=weights).state_dict()
    model = networks.build(spec, shape, classes, seed)
    _fill(model, weights, spec, classes)
    return model.state_dict(), found


def _timm_file(spec: ModelSpec) -> Path:
    """Where timm's weights lie in the cache of huggingface_hub. Raises KdbenchError where they are not there."""
    import timm
    from huggingface_hub import try_to_load_from_cache

    repository = timm.get_pretrained_cfg(spec.timm).hf_hub_id
    if not repository:
        raise KdbenchError(f"models.{spec.name}: {spec.timm} is not on huggingface.co; name its file by weights: FILE")
    names = ("model.safetensors", "pytorch_model.bin")
    for found in (try_to_load_from_cache(repository, name) for name in names):
        if isinstance(found, str):
            return Path(found)
    raise KdbenchError(
        f"models.{spec.name}: {names[0]} of huggingface.co/{repository} is not in the cache, and jobs download no "
        f"weights of timm's; run on a machine with a network: hf download {repository} {names[0]} (the cache lies in "
        "~/.cache/huggingface, or where HF_HOME says)"
    )


def _read(path: Path, spec: ModelSpec) -> dict[str, Tensor]:
    """The tensors of a .safetensors or a file of torch.save, without wrappers. Raw weights, where it has an average of
    them too, as OFA's harness reads its teachers."""
    from timm.models import load_state_dict

    try:
        # timm's own checkpoints hold their arguments beside the weights.
        with torch.serialization.safe_globals([argparse.Namespace]):
            found = load_state_dict(str(path), use_ema=False, weights_only=True)
        if not all(isinstance(value, Tensor) for value in found.values()):
            raise TypeError("not all of its values are tensors")
    except Exception as error:  # torch, safetensors and timm refuse in many ways
        raise KdbenchError(
            f"models.{spec.name}: {path} is no file of weights alone, and nothing of it was run: "
            f"{networks.first_line(error)}"
        ) from error
    return found


def _fill(model: nn.Module, weights: dict[str, Tensor], spec: ModelSpec, classes: int) -> None:
    """Load weights into their network, all of them; a classifier of other classes is left as it is for a recipe."""
    rename = getattr(importlib.import_module(type(model).__module__), "checkpoint_filter_fn", None)
    heads = classifiers(model)
    try:
        if rename and not spec.pretrained:
            weights = rename(weights, model)
        for name, head in model.named_modules():
            there = weights.get(f"{name}.weight")
            if head in heads and (there is None or len(there) != classes):
                if spec.recipe:
                    weights = weights | head.state_dict(prefix=f"{name}.")
                elif there is not None:
                    raise KdbenchError(
                        f"models.{spec.name}: its weights are for {len(there)} classes and data {spec.data} have "
                        f"{classes}; give it a recipe, which trains a classifier of its own"
                    )
        model.load_state_dict(weights)
    except KdbenchError:
        raise
    except Exception as error:  # of timm's renaming, which expects a network of its own, or of torch
        told = " ".join(textwrap.shorten(line, 200) for line in str(error).splitlines()[:4])
        origin = spec.weights or "timm's file"
        raise KdbenchError(f"models.{spec.name}: {origin} does not fit {spec.timm} with {spec.args}: {told}") from None


def as_it_is(cohort: Cohort, run: Run) -> Outcome:
    """A teacher that is not trained here: how good the weights that it starts with are on these data."""
    started = time.monotonic()
    spec, batches = cohort.student, cohort.batches
    reader = networks.reader(spec, batches.shape[spec.input], batches.classes, cohort.seed, weights=cohort.start)
    model = reader.model.to(cohort.device)
    logits = {split: cohort.logits([model], split)[0] for split in ("val", "test")}
    found = {split: accuracy(logits[split], batches.labels(split)) for split in logits}
    record = {
        "status": "finished",
        "reason": None,
        "accuracy": {**found, "best_test": found["test"], "best_test_epoch": 0},
        "nll": {split: F.cross_entropy(logits[split], batches.labels(split)).item() for split in logits},
        "agreement": None,
        "history": [],
        "cost": {
            "seconds": 0.0,
            "cohort_seconds": time.monotonic() - started,
            "peak_memory_mb": peak_memory_mb(cohort.device),
            "student_parameters": networks.parameter_count(model),
        },
        "notes": [],
    }
    weights = {name: value.clone().contiguous() for name, value in cohort.start.items()}
    return Outcome(run, record, {split: v.cpu() for split, v in logits.items()}, weights)
