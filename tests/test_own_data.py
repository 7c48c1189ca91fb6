"""docs/your-own-data.md as a new user follows it: its very suite and its very commands, on data of one's own."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import REPOSITORY
from PIL import Image
from test_workflow import job_counts, snakemake

from kdbench import cli
from kdbench.data.packed import load_packed
from kdbench.plan.jobs import make_plan
from kdbench.plan.suite import load_suite
from kdbench.plan.workflow import source_state
from kdbench.types import KdbenchError

PAGE = (REPOSITORY / "docs/your-own-data.md").read_text()
SUITE = re.search(r"```yaml\n(.*?)```", PAGE, re.S).group(1)
COMMANDS = [shlex.split(line, comments=True)[1:] for line in re.findall(r"^kdbench .*$", PAGE, re.M)]


def pictures(label: int, count: int) -> list[np.ndarray]:
    """Dark cats and bright dogs of different sizes."""
    rng = np.random.default_rng([label, count])
    return [rng.integers(120 * label, 120 * label + 130, (30 + i % 3, 36, 3), np.uint8) for i in range(count)]


def write_folder(folder: Path) -> None:
    for part, count in (("train", 40), ("test", 12)):
        for label, name in enumerate(("cat", "dog")):
            place = folder / "pets" / part / name
            place.mkdir(parents=True)
            for i, picture in enumerate(pictures(label, count)):
                Image.fromarray(picture).save(place / f"{i}.{'png' if i % 2 else 'jpg'}")


def write_file(folder: Path) -> None:
    arrays = {}
    for part, count in (("train", 40), ("test", 12)):
        arrays[f"{part}_images"] = np.stack([p[:30, :30] for label in (0, 1) for p in pictures(label, count)])
        arrays[f"{part}_images"] = np.pad(arrays[f"{part}_images"], ((0, 0), (1, 1), (1, 1), (0, 0)))
        arrays[f"{part}_labels"] = np.repeat([0, 1], count)
    np.savez(folder / "pets.npz", **arrays)


@pytest.mark.slow
def test_from_a_folder_of_pictures_to_a_table(tmp_path, monkeypatch, capsys):
    follow(tmp_path, monkeypatch, SUITE, write_folder)
    assert [words[0] for words in COMMANDS] == ["data", "run"]
    for words in COMMANDS:
        assert cli.main(words) == 0
    said = capsys.readouterr().err
    assert "72 train, 8 val, 24 test samples of 2 classes" in said and "pets: pictures of pets: 80 train" in said
    table = (tmp_path / "tables/pets.md").read_text()
    assert "## My pets" in table and "UHKD" in table
    assert "pictures of pets: 80 train, 24 test" in table and "resized to 32x32 (bicubic)" in table


ODD_NAMES = ["IMG{1}.png", "{x}.png", "{{y}}.png", "{z,[0-9]+}.png", "*.png", "a b'$(c)\".png", "IMG_ä.png", "%s.png"]


def add_odd_names(folder: Path) -> None:
    for name in ODD_NAMES:
        Image.fromarray(pictures(0, 1)[0]).save(folder / "pets/train/cat" / name)


def test_snakemake_takes_paths_as_they_are(tmp_path, monkeypatch):
    """Names of pictures, of the folder of data and of the folder of the suite."""
    follow(tmp_path, monkeypatch, SUITE, write_folder)
    add_odd_names(tmp_path / "my-data")
    (tmp_path / "my-data").rename(tmp_path / "my {data}")
    (tmp_path / "config").rename(tmp_path / "con{fig}")
    monkeypatch.setenv("KDBENCH_DATA", str(tmp_path / "my {data}"))
    assert job_counts(snakemake(tmp_path, "-n", "--config", "suite=con{fig}/pets.yaml"))["data"] == 1


@pytest.mark.slow
def test_snakemake_packs_what_changed_and_keeps_what_did_not(tmp_path, monkeypatch):
    follow(tmp_path, monkeypatch, SUITE, write_folder)
    add_odd_names(tmp_path / "my-data")
    words, train = ("--until", "data", "--config", "suite=pets"), tmp_path / "my-data/pets/train"

    def packed() -> tuple[int, list[int]]:
        """When, and how many of each class."""
        (folder,) = (path.parent for path in tmp_path.glob("results/data/*/meta.json"))
        labels = np.concatenate([load_packed(folder).labels(split) for split in ("train", "val")])
        return (folder / "labels-train.npy").stat().st_mtime_ns, np.bincount(labels).tolist()

    snakemake(tmp_path, *words)
    first = packed()
    assert first[1] == [40 + len(ODD_NAMES), 40]
    (train / "cat/3.png").touch()
    assert "kdbench: data pets" in snakemake(tmp_path, *words)
    assert packed() == first

    (train / "cat/3.png").rename(train / "dog/3x.png")
    snakemake(tmp_path, *words)
    second = packed()
    assert second[1] == [39 + len(ODD_NAMES), 41]

    (train / "dog/new.png").write_bytes(b"")
    assert "dog/new.png (it is empty)" in snakemake(tmp_path, *words, ok=False)
    assert packed() == second, "what was packed is not lost"

    shutil.rmtree(tmp_path / "my-data/pets")
    assert "not on this machine" in snakemake(tmp_path, *words)
    assert packed() == second


@pytest.mark.parametrize(("source", "write"), [("imagefolder", write_folder), ("npz", write_file)])
@pytest.mark.parametrize("setting", ["", "an-empty-folder"])
def test_data_packed_elsewhere_need_no_files_here(tmp_path, monkeypatch, capsys, source, write, setting):
    line = re.search(rf"(\{{source: {source}.*\}})", SUITE).group(1)
    follow(tmp_path, monkeypatch, re.sub(r"\{source: imagefolder.*\}", line, SUITE), write)
    suite = load_suite("pets")
    (job,) = make_plan(suite).of("data")
    before = source_state(suite, job)
    assert cli.main(COMMANDS[0]) == 0
    assert source_state(suite, job) == before
    packed = job.output.read_bytes()

    (tmp_path / "an-empty-folder").mkdir()
    monkeypatch.setenv("KDBENCH_DATA", setting)
    capsys.readouterr()
    assert cli.main(COMMANDS[0]) == 0
    assert "the files that they were made of are not on this machine" in capsys.readouterr().err
    assert job.output.read_bytes() == packed and source_state(suite, job) != before
    job.output.unlink()
    assert cli.main(COMMANDS[0]) == 2
    with pytest.raises(KdbenchError):
        source_state(suite, job)


def test_what_snakemake_is_told_changes_with_paths_and_not_with_the_folder(tmp_path, monkeypatch):
    follow(tmp_path, monkeypatch, SUITE, write_folder)
    suite = load_suite("pets")
    (job,) = make_plan(suite).of("data")
    first = source_state(suite, job)
    (tmp_path / "my-data").rename(tmp_path / "moved")
    monkeypatch.setenv("KDBENCH_DATA", str(tmp_path / "moved"))
    assert source_state(suite, job) == first
    (tmp_path / "moved/pets/train/cat/3.png").rename(tmp_path / "moved/pets/train/dog/3x.png")
    assert source_state(suite, job) != first


def test_a_file_of_arrays_instead(tmp_path, monkeypatch, capsys):
    """With the line that the page has in a comment."""
    line = re.search(r"# or: (\{source: npz.*\})", SUITE).group(1)
    follow(tmp_path, monkeypatch, re.sub(r"\{source: imagefolder.*\}", line, SUITE), write_file)
    assert cli.main(COMMANDS[0]) == 0
    assert "72 train, 8 val, 24 test samples of 2 classes" in capsys.readouterr().err


def follow(folder: Path, monkeypatch, suite: str, write: Callable[[Path], None]) -> None:
    """Steps 1 and 2 of the page, in a new folder."""
    for name in ("config", "my-data"):
        (folder / name).mkdir()
    (folder / "config/pets.yaml").write_text(suite)
    write(folder / "my-data")
    monkeypatch.setenv("KDBENCH_DATA", str(folder / "my-data"))
    monkeypatch.chdir(folder)
