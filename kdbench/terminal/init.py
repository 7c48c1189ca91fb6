"""`kdbench init FOLDER`: a folder to work in, beside the one that kdbench was installed into."""

from __future__ import annotations

from pathlib import Path

from kdbench.files import atomic, write_text
from kdbench.plan.paths import CONFIG_FOLDER, shipped
from kdbench.types import KdbenchError

COPIED = (CONFIG_FOLDER / "quick.yaml", "profiles")
"""What people edit: a suite to begin with, and how the workflow is run. The workflow itself is not copied, so it is
always that of the kdbench that is installed."""

SNAKEFILE = """\
# The workflow that comes with kdbench. Rules of your own go below.
from kdbench.plan.paths import shipped


module kdbench:
    snakefile:
        shipped("Snakefile").as_posix()
    config:
        config


use rule * from kdbench
"""


def lay_out(folder: Path) -> list[Path]:
    """Write a Snakefile, the suite quick and the profiles into a new or empty folder, and return their paths.

    Raises KdbenchError where something lies there already.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        what = "is not empty" if folder.is_dir() else "is a file"
        raise KdbenchError(f"{folder} {what}, and init writes over nothing; name a folder that is new or empty")
    sources = [path for place in COPIED for path in _files(shipped(place))]
    copies = {path: folder / path.relative_to(shipped("")) for path in sources}
    for source, target in copies.items():
        with atomic(target) as file:
            file.write(source.read_bytes())
    write_text(folder / "Snakefile", SNAKEFILE)
    return [folder / "Snakefile", *copies.values()]


def _files(place: Path) -> list[Path]:
    return sorted(path for path in place.rglob("*") if path.is_file()) if place.is_dir() else [place]
