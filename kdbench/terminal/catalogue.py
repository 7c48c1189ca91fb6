"""The lists of methods and of data sources, for the terminal and for docs/methods.md: made from their own text."""

from __future__ import annotations

from kdbench.plan.blocks import GROUPS
from kdbench.plan.registry import MethodInfo, load_method, method_info, method_names, source_doc, source_names

HEAD = """# Methods

Made by `kdbench show methods` from the docstrings in kdbench/methods. † and ‡ mark what is not fully known from a
paper or its code. The main weight is what `tune` varies ([suites.md](suites.md)). `kdbench cite SUITE` prints BibTeX.
What was looked at and is not here stands in [rivals.md](rivals.md), with the reason.
"""


def page() -> str:
    """Markdown: every method by group, with its source, defaults, presets and what it reads of the networks."""
    infos = [method_info(name) for name in method_names()]
    parts = [HEAD]
    for group in GROUPS:
        for info in (i for i in infos if i.group == group):
            parts.append(_section(info))
    return "\n".join(parts)


def data_page() -> str:
    """Markdown: every data source in its own words, licence and attribution among them."""
    return "\n\n".join(f"## {name}\n\n{source_doc(name)}" for name in source_names())


def _section(info: MethodInfo) -> str:
    method = load_method(info.name)
    needs = ", ".join(sorted(method.needs(method.Params())))
    first, _, rest = info.doc.partition("\n")
    lines = [f"## {info.title}{info.mark} (`{info.name}`)", "", f"*{info.group}; reads {needs}.* {first}", ""]
    if rest.strip():
        lines += ["```text", rest.strip("\n"), "```", ""]
    if info.footnote:
        lines += [f"{info.mark} {info.footnote}.", ""]
    if info.params:
        defaults = ", ".join(f"`{k}: {_yaml(p.default)}`" for k, p in info.params.items())
        source = f" (harness: {info.harness})" if info.harness else ""
        lines += [f"Defaults{source}: {defaults}.", ""]
    weight = info.main_weight
    told = f"`{weight}`, by default {info.params[weight].default}" if weight else "none, so that `tune` leaves it alone"
    lines += [f"Main weight: {told}.", ""]
    if info.tune_temperature:
        lines += [f"Temperature that `tune` varies: `{info.tune_temperature}`.", ""]
    for name, preset in info.presets.items():
        lines += [f"Preset `{name}`: {', '.join(f'`{k}: {_yaml(v)}`' for k, v in preset.items())}.", ""]
    return "\n".join(lines)


def _yaml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return str(list(value)) if isinstance(value, tuple) else str(value)
