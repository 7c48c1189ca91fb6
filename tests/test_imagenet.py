"""The way of ImageNet on a few pictures: JPEG files, shards, a teacher from a file behind its gate, students, tables,
and published cells beside them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import TINY, run_jobs
from PIL import Image

from kdbench.data.pictures import DECODER
from kdbench.plan.jobs import Plan, make_plan
from kdbench.plan.suite import check_suite
from kdbench.results.record import read_run
from kdbench.run.data import run_data
from kdbench.run.everything import run_all
from kdbench.terminal import published
from kdbench.types import KdbenchError

# isort: split
import timm
from timm.data import create_transform

import kdbench.torchvision_ops  # noqa: F401

SIZE = 32
PLACES = {"train": 24, "test": 8}


def write_pictures(folder: Path) -> None:
    """Dark and bright ones, which any network tells apart."""
    rng = np.random.default_rng(0)
    for split, count in PLACES.items():
        for label, level in (("n01", 70), ("n02", 180)):
            place = folder / split / label
            place.mkdir(parents=True)
            for i in range(count):
                sides = rng.integers(40, 70, 2)
                noise = rng.normal(level, 20, (*sides, 3)).clip(0, 255).astype(np.uint8)
                Image.fromarray(noise).save(place / f"{i}.JPEG", format="JPEG", quality=90)


def timms_own_logits(folder: Path) -> tuple[np.ndarray, float]:
    """What timm's evaluation of the weights in teacher.pth gives on the test pictures: logits and percent right."""
    model = timm.create_model("test_resnet", num_classes=2).eval()
    model.load_state_dict(torch.load("teacher.pth")["state_dict"])
    config = model.pretrained_cfg
    how = {name: config[name] for name in ("mean", "std", "crop_pct", "interpolation")}
    show = create_transform((3, SIZE, SIZE), is_training=False, **how)
    pictures = [(i, path) for i, label in enumerate(("n01", "n02")) for path in (folder / "test" / label).iterdir()]
    with torch.no_grad():
        logits = model(torch.stack([show(Image.open(path)) for _, path in pictures])).numpy()
    return logits, 100 * float(np.mean(logits.argmax(1) == [label for label, _ in pictures]))


def plan_of(accuracy: float) -> Plan:
    student = {"lr": 5.0e-3, "epochs": 4, "batch_size": 8, "resized_crop": 0.3, "interpolation": "random", "flip": True}
    vit = TINY["models"]["vit-s"] | {"data": "few", "args": TINY["models"]["vit-s"]["args"] | {"patch_size": 8}}
    teacher = {"timm": "test_resnet", "data": "few", "weights": "teacher.pth", "accuracy": accuracy, "tolerance": 0.01}
    tree = {
        "seeds": [0, 1],
        "workers": 1,
        "data": {"few": {"source": "jpegfolder", "folder": "few", "size": SIZE}},
        "recipes": {"student": student},
        "models": {"r-t": teacher | {"family": "cnn", "normalisation": "timm"}, "vit-s": vit},
        "blocks": {"main": {"data": "few", "pairs": ["r-t -> vit-s"], "methods": ["scratch", "kd", "ofa"]}},
    }
    return make_plan(check_suite(tree, "few", "few.yaml"))


@pytest.mark.slow
def test_from_pictures_to_published_cells(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KDBENCH_DATA", str(tmp_path))
    write_pictures(tmp_path / "few")
    torch.manual_seed(0)
    torch.save({"state_dict": timm.create_model("test_resnet", num_classes=2).state_dict()}, "teacher.pth")
    logits, accuracy = timms_own_logits(tmp_path / "few")

    wrong = plan_of(accuracy - 5 if accuracy > 50 else accuracy + 5)
    run_data(wrong, wrong.of("data")[0])
    with pytest.raises(KdbenchError, match=rf"teacher r-t has a test accuracy of {accuracy:.2f} %"):
        run_jobs(wrong, "teacher")

    plan = plan_of(accuracy)
    run_all(plan)
    teacher = plan.teacher("r-t", 0)
    ours = np.load(teacher.stem.with_suffix(".npz"))["test_logits"].astype(np.float32)
    assert np.allclose(ours[np.lexsort(ours.T)], logits[np.lexsort(logits.T)], atol=5e-3)
    record = read_run(plan.runs()["r-t--vit-s", "ofa", 1].result)
    view = {"size": SIZE, "decoder": DECODER}
    assert record["evaluation"] == {
        "student": view | {"crop": 0.875, "interpolation": "bicubic"},
        "teacher": view | {"crop": 0.95, "interpolation": "bilinear"},
    }
    assert record["normalisation"] == {"teacher": {"mean": [0.5] * 3, "std": [0.5] * 3}}
    assert record["teacher_accuracy"]["test"] == pytest.approx(accuracy)
    table = Path("tables/few.md").read_text()
    assert "weights of teacher.pth" in table and f"stated test accuracy {accuracy:g}" in table

    cells = {"teacher": "r-t", "student": "vit-s", "method": "kd", "value": 100.0, "epoch": "best", "source": "nobody"}
    cells |= {"certainty": "verbatim", "teacher_accuracy": "", "recipe": "", "unlike": "", "tolerance": 0.5}
    monkeypatch.setattr(published, "FOLDER", tmp_path)
    for value, within in ((100.0, True), (90.0, False)):
        pd.DataFrame([cells | {"value": value}]).to_csv("few.csv", index=False)
        assert published.published(plan) is within
        assert f"{value:.2f} (best)" in capsys.readouterr().out
