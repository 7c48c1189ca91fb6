"""`kdbench proxy A B`: do the methods that gain in the suite A gain in the suite B? (kdbench/report/proxy.py)"""

from __future__ import annotations

from pathlib import Path

from kdbench.files import write_text
from kdbench.plan.paths import proxy_file
from kdbench.plan.suite import typed
from kdbench.report import proxy
from kdbench.report.figures.canvas import write
from kdbench.report.figures.proxy import scatter
from kdbench.report.page import Document, Section, markdown
from kdbench.results.reference import Reference
from kdbench.types import Suite


def write_proxy(a: Suite, b: Suite) -> list[Path]:
    """Write tables/reference/A-proxy-B.md, .csv and .png from the committed results of both; their paths.

    Raises KdbenchError where one of the two has none, and where they share too little.
    """
    found = proxy.compare(Reference(a), Reference(b))
    made = f"Made from the references of both by: kdbench proxy {typed(a)} {typed(b)}"
    page = Document(f"{a.name} as a proxy for {b.name}", (), (Section("", tuple(proxy.parts(found))),), (made,))
    path = proxy_file(a, b.name)
    write_text(path, markdown(page))
    write_text(path.with_suffix(".csv"), found.cells.to_csv(index=False, lineterminator="\n"))
    return [path, path.with_suffix(".csv"), *write(scatter(found), path.with_suffix(""), suffixes=("png",))]
