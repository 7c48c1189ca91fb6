"""docs/your-own-data.md as a new user follows it: its very suite and its very commands, on data of one's own."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import numpy as np
from conftest import REPOSITORY
from PIL import Image

from kdbench import cli

PAGE = (REPOSITORY / "docs/your-own-data.md").read_text()
SUITE = re.search(r"```yaml\n(.*?)```", PAGE, re.S).group(1)
COMMANDS = [shlex.split(line, comments=True)[1:] for line in re.findall(r"^kdbench .*$", PAGE, re.M)]


def pictures(label: int, count: int) -> list[np.ndarray]:
    """Dark cats and bright dogs of different sizes."""
    rng = np.random.default_rng(label)
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


def test_from_a_folder_of_pictures_to_a_table(tmp_path, monkeypatch, capsys):
    follow(tmp_path, monkeypatch, SUITE, write_folder)
    assert [words[0] for words in COMMANDS] == ["data", "run"]
    for words in COMMANDS:
        assert cli.main(words) == 0
    assert "72 train, 8 val, 24 test samples of 2 classes" in capsys.readouterr().err
    table = (tmp_path / "tables/pets.md").read_text()
    assert "## My pets" in table and "UHKD" in table
    assert "pictures of pets: 80 train, 24 test" in table and "resized to 32x32 (bicubic)" in table


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
