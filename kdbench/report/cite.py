"""`kdbench cite SUITE`: the BibTeX of a suite, which lies beside its tables too.

A paper's entry stands in the file of its method or data source, as BIBTEX; that of kdbench itself is CITATION.cff.
"""

from __future__ import annotations

import yaml

from kdbench.plan.paths import shipped
from kdbench.plan.registry import method_info, method_names, source_constant, source_names
from kdbench.types import Suite


def citations(suite: Suite | None) -> str:
    """A .bib file: the entries of kdbench and of a suite's methods and data, or of all."""
    methods = {m.method for block in suite.blocks for m in block.methods} if suite else method_names()
    sources = {data.source for data in suite.data.values()} if suite else source_names()
    entries = [_own_entry()]
    entries += [method_info(name).bibtex for name in sorted(methods)]
    entries += [e for name in sorted(sources) for e in source_constant(name, "BIBTEX", "").strip().split("\n\n")]
    return "\n\n".join(dict.fromkeys(filter(None, entries)))  # two sources may have one paper


def _own_entry() -> str:
    cited = yaml.safe_load(shipped("CITATION.cff").read_text(encoding="utf-8"))["preferred-citation"]
    name, _, rest = cited["title"].partition(":")
    authors = " and ".join(f"{{{author['name']}}}" for author in cited["authors"])
    return "\n".join(
        (
            f"@misc{{kdbench{cited['year']},",
            f"  author = {{{authors}}},",
            f"  title = {{{{{name}}}:{rest}}},",
            f"  note = {{Version {cited['version']}}},",
            f"  year = {{{cited['year']}}},",
            "}",
        )
    )
