"""Similarities as measured, from JSON to frames: what the figures of stages and of channels share."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pandas as pd

from kdbench.report.block import BlockReport
from kdbench.types import Block, KdbenchError

BANDS = {"dc": "DC: mean over space", "low": "low spatial frequencies", "high": "high spatial frequencies"}


def listed(report: BlockReport, kind: str, *keys: str, key: str = "rows") -> list[dict[str, Any]]:
    """Rows of all documents of a kind, with these keys of the document; none where they lack this list of rows."""
    return [{**{k: d[k] for k in keys}, **row} for d in getattr(report, kind) for row in d.get(key, ())]


def rows_of(report: BlockReport, kind: str, *keys: str, key: str = "rows") -> pd.DataFrame:
    """The same as a frame. Raises KdbenchError where there are none."""
    rows = listed(report, kind, *keys, key=key)
    if not rows:
        raise KdbenchError(f"no {kind} similarity for block {report.block.name!r}: there is nothing to draw")
    return pd.DataFrame(rows)


def cka_of(report: BlockReport) -> pd.DataFrame:
    """CKA by pair, seed, method, stage and band; what has no number is NaN and has a reason."""
    data = rows_of(report, "stages", "pair")
    data["reason"] = data["reason"].astype(object).where(data["reason"].notna(), None)
    for column in ("cka", "null_low", "null_high"):
        data[column] = pd.to_numeric(data[column], errors="coerce").astype(float)
    return data


def levels_of(data: pd.DataFrame) -> pd.DataFrame:
    """The mean over stages of the CKA of one band: index (pair, seed), a column a method.

    A run whose CKA is undefined at a stage that others of its pair have is NaN: its mean would be over other stages.
    """
    levels = {}
    for pair, rows in data.groupby("pair", sort=False):
        stages = rows.pivot_table(index=["seed", "method"], columns="stage", values="cka", dropna=False)
        levels[pair] = stages.dropna(axis=1, how="all").mean(axis=1, skipna=False).unstack("method")
    return pd.concat(levels, names=["pair"]) if levels else pd.DataFrame()


def ceilings_of(report: BlockReport) -> pd.DataFrame:
    """CKA of two seeds of the same scratch student: columns pair, seeds, stage, band, cka; empty where not measured."""
    rows = listed(report, "stages", "pair", key="ceiling")
    data = pd.DataFrame(rows, columns=["pair", "seeds", "stage", "band", "cka", "reason"])
    return data.assign(cka=pd.to_numeric(data["cka"], errors="coerce").astype(float))


def known_pairs(block: Block, found: Iterable[str]) -> list[str]:
    """Pairs in the order of the block, then any other."""
    known = [p.id for p in block.pairs]
    return sorted(dict.fromkeys(found), key=lambda p: known.index(p) if p in known else len(known))


def main_reason(rows: pd.DataFrame) -> str:
    """Why all of these are n/a: the most frequent reason, since single runs may have failed for their own."""
    reasons = [r for r in rows["reason"] if r]
    return max(dict.fromkeys(reasons), key=reasons.count, default="no result yet")
