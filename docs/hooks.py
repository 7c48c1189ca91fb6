"""Which files of the repository stand on the site. They keep their paths, so that a relative link between them holds in
both places, and mkdocs checks it; to this come the index of all results and a page of figures for every reference."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from kdbench.report import figures
from kdbench.report.index import index_page
from kdbench.results.reference import Frozen, references
from kdbench.results.submission import submissions

SHOWN = ("README.md", "docs/*.*", "speed/*.py", "tables/reference/**/*", "results/reference/**/*")
"""The pages and what they link to."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """In place of the files of docs/: those that are shown, and what is made of references and submissions."""
    for file in [file for file in files if file.src_dir == config.docs_dir]:
        files.remove(file)
    root = Path(config.config_file_path).parent
    for path in sorted({path for pattern in SHOWN for path in root.glob(pattern) if path.is_file()}):
        if path.suffix != ".html":  # of tables, whose .md becomes that page
            name = path.relative_to(root).as_posix()
            files.append(File(name, str(root), config.site_dir, config.use_directory_urls))
    with contextlib.chdir(root):
        kept = references()
        page = index_page(kept, submissions(), [("Documentation", "../index.html")])
        made = {"results/index.html": page} | {f"results/{r.folder.name}.md": _figures(r) for r in kept}
    for name, content in made.items():
        files.append(File.generated(config, name, content=content))
    results = next(section["Results"] for section in config.nav if "Results" in section)
    results.insert(0, {"All results": "results/index.html"})
    for name in sorted({path.stem for path in root.glob("tables/reference/*.md")} | {r.folder.name for r in kept}):
        pages = {"Tables": f"tables/reference/{name}.md", "Figures": f"results/{name}.md"}
        results.append({name: [{title: page} for title, page in pages.items() if files.get_file_from_path(page)]})
    return files


def on_page_markdown(markdown: str, **_: object) -> str:
    """Diagrams as lists: a browser would fetch the script that draws them."""
    return re.sub(r"```mermaid\n\s*flowchart.*?\n(.*?)```", lambda match: _arrows(match[1]), markdown, flags=re.S)


def _arrows(flowchart: str) -> str:
    """`a[pack] --> b["train"]` and `b --> c[tabulate]` -> items "pack → train" and "train → tabulate"."""
    names = dict(re.findall(r'(\w+)\["?([^]"]*)"?\]', flowchart.replace("<br>", " ")))
    lines = re.sub(r"\[[^]]*\]", "", flowchart).replace("-->", "→").strip().splitlines()
    return "\n".join("- " + re.sub(r"\w+", lambda word: names.get(word[0], word[0]), line.strip()) for line in lines)


def _figures(reference: Frozen) -> str:
    """A page of the figures of a reference, the supplement's last."""
    name = reference.folder.name
    lines = [f"# {name}: figures", "", f"[All runs](reference/{name}/runs.csv), [all results](index.html)."]
    known = figures.kinds()
    for path in sorted(reference.folder.glob("figures/**/*.png"), key=lambda path: (len(path.parts), path.stem)):
        block, _, kind = path.stem.rpartition("-")
        title = f"{block}: {known[kind].TITLE}" if kind in known else path.stem
        lines += ["", f"## {title}", "", f"![{title}]({path.relative_to('results').as_posix()})"]
        lines += ["", " ".join(known[kind].__doc__.split())] if kind in known else []
    return "\n".join(lines) + "\n"
