"""Recompute what the tables of a reference print, from its runs alone and with nothing of kdbench.

    python tests/recompute.py quick tuned glyphs        from the root of the repository

Reads results/reference/SUITE/runs.csv, works out every number of tables/reference/SUITE.csv, and holds each number that
tables/reference/SUITE.md prints against them: a table of accuracies, of differences or of verdicts is recognised by its
title, a cell by its row and column. Written for being read beside a textbook, not for speed. Not recomputed: bootstrap
intervals over test samples ({...}), which need the samples, and texts.
"""

from __future__ import annotations

import functools
import math
import re
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import optimize, special, stats

CELL_MEANS = {
    "val_mean": "val",
    "test_nll_mean": "test_nll",
    "agreement_mean": "agreement",
    "extra_parameters": "extra_parameters",
    "seconds_mean": "seconds",
    "peak_memory_mb_mean": "peak_memory_mb",
    "best_test_mean_decides_nothing": "best_test",
    "best_test_epoch_mean_decides_nothing": "best_test_epoch",
}
NO_NUMBERS = {"suite", "edition", "block", "line", "baseline", "pair", "teacher", "student", "method", "label", "group"}
NO_NUMBERS |= {"kind", "status", "bold", "notes", "gradient_shares"}


def recompute(suite: str, root: Path = Path()) -> tuple[int, list[str]]:
    """How many numbers of a suite's tables were recomputed, and a line for each that is another."""
    texts = pd.read_csv(root / f"results/reference/{suite}/runs.csv", dtype=str, keep_default_na=False)
    table = pd.read_csv(root / f"tables/reference/{suite}.csv", keep_default_na=False, na_values=[""])
    known = {column: texts[column] for column in ("block", "pair", "method", "status")}
    numbers = {c: pd.to_numeric(texts[c], errors="coerce") for c in texts if c not in known}
    runs = pd.DataFrame({**known, **numbers})
    runs = runs.assign(budget=runs.get("budget", 1.0))
    blocks = {}
    for name, lines in table.groupby("block", sort=False):
        own = runs[runs["block"] == name]
        # Tables show the largest budget unless a suite says otherwise; none of ours does.
        blocks[name] = Block(own[own["budget"] == own["budget"].max()], lines)
    checked = Checked()
    for block in blocks.values():
        block.check_lines(checked)
    check_page((root / f"tables/reference/{suite}.md").read_text(encoding="utf-8"), blocks, checked)
    return checked.count, checked.wrong


class Checked:
    """The numbers that were looked at."""

    def __init__(self) -> None:
        self.count, self.wrong = 0, []

    def number(self, where: str, ours, theirs, tolerance: float = 1e-9) -> None:
        self.count += 1
        ours, theirs = (math.nan if x is None else float(x) for x in (ours, theirs))
        alike = abs(ours - theirs) <= tolerance + 1e-9 * abs(ours) or (math.isnan(ours) and math.isnan(theirs))
        if not alike:
            self.wrong.append(f"{where}: {theirs!r}, and the runs give {ours!r}")

    def same(self, where: str, ours, theirs) -> None:
        self.count += 1
        if ours != theirs:
            self.wrong.append(f"{where}: {theirs!r}, and the runs give {ours!r}")

    def printed(self, where: str, text: str, *ours: float | None) -> None:
        """The numbers that a cell prints: as many as we have, each right in all its digits."""
        text = re.sub(r"<sup>.*?</sup>|\{[^}]*\}", "", text).replace("−", "-").replace("\\", "").replace(",", " ")
        found = re.findall(r"[-+]?\d+(?:\.\d+)?", text.replace("-tuned", ""))
        ours = [x for x in ours if x is not None and not math.isnan(x)]
        if len(found) != len(ours):
            self.wrong.append(f"{where}: prints {text!r}, and the runs give {ours}")
            return
        for digits, x in zip(found, ours, strict=True):
            places = len(digits.partition(".")[2])
            self.number(where, x, float(digits), 0.5 * 10**-places + 1e-9)


# ------------------------------------------------------------------------------------------------------------ textbook


@functools.cache
def critical(freedom: int) -> float:
    return stats.t.ppf(0.975, freedom)


def t_interval(x: np.ndarray) -> tuple[float, float]:
    """Student's 95 % interval of a mean; none below two values or where all are equal."""
    if len(x) < 2 or np.ptp(x) < 1e-9:
        return math.nan, math.nan
    half = critical(len(x) - 1) * x.std(ddof=1) / math.sqrt(len(x))
    return x.mean() - half, x.mean() + half


def t_test(x: np.ndarray) -> float:
    return stats.ttest_1samp(x, 0).pvalue if len(x) > 1 and np.ptp(x) > 1e-9 else math.nan


def holm(p: dict[str, float]) -> dict[str, float]:
    """Holm (1979): the smallest of m p-values times m, the next times m - 1, and never less than the one before."""
    ordered = sorted((m for m in p if not math.isnan(p[m])), key=p.get)
    adjusted, last = dict.fromkeys(p, math.nan), 0.0
    for rank, method in enumerate(ordered):
        last = adjusted[method] = max(last, min(1.0, (len(ordered) - rank) * p[method]))
    return adjusted


def power(delta: float, n: int, alpha: float) -> float:
    """Of a two-sided t test of n differences of mean `delta` standard errors: a mean over equally likely spreads."""
    critical, freedom = stats.t.ppf(1 - alpha / 2, n - 1), n - 1

    spread = spreads(freedom)
    beyond = special.ndtr(delta - critical * spread) + special.ndtr(-critical * spread - delta)
    return beyond.mean()


@functools.cache
def spreads(freedom: int) -> np.ndarray:
    """Equally likely values of the estimated over the true standard deviation."""
    return stats.chi.ppf((np.arange(20_000) + 0.5) / 20_000, freedom) / math.sqrt(freedom)


def detectable(samples: list[np.ndarray], alpha: float) -> tuple[float, int]:
    """(difference, n): what is found with 80 % power at the spread pooled over samples, and their usual size."""
    samples = [x for x in samples if len(x) > 1]
    if not samples:
        return math.nan, 0
    sizes = [len(x) for x in samples]
    n = max(set(sizes), key=lambda size: (sizes.count(size), size))
    sd = pooled(samples)[0]
    delta = optimize.brentq(lambda d: power(d, n, alpha) - 0.8, 0.1, 2000, xtol=1e-6)
    return delta * sd / math.sqrt(n), n


def pooled(samples: list[np.ndarray]) -> tuple[float, int]:
    """Standard deviation pooled by degrees of freedom, and these."""
    freedom = sum(len(x) - 1 for x in samples)
    return math.sqrt(sum((len(x) - 1) * x.var(ddof=1) for x in samples) / freedom), freedom


# --------------------------------------------------------------------------------------------------------------- block


class Block:
    """The runs of a block and the lines of the CSV about it."""

    def __init__(self, runs: pd.DataFrame, lines: pd.DataFrame) -> None:
        self.runs, self.lines = runs, lines
        self.cells = lines[lines["line"] == "cell"]
        self.pairs = list(dict.fromkeys(self.cells["pair"]))
        self.methods = list(dict.fromkeys(self.cells["method"]))
        self.labels = dict(zip(self.cells["method"], self.cells["label"], strict=True))
        done = runs[runs["status"] == "finished"]
        self.values = {
            column: {key: x.dropna() for key, x in done.set_index("seed").groupby(["pair", "method"])[column]}
            for column in {"test", *CELL_MEANS.values()} & set(runs)
        }
        self.seeds = sorted(set(runs["seed"]))
        self.gains = {}
        for pair in self.pairs:
            teacher = runs[runs["pair"] == pair].groupby("seed")["teacher_val"].first()
            self.gains[pair] = (teacher - self.of(pair, "scratch", "val")).dropna().mean()
        self.headline = [pair for pair in self.pairs if self.gains[pair] >= 3 - 1e-9]
        # Whether these tables leave collapsed rows out of what is pooled, and close bold sets upwards.
        self.collapse = "verdict_collapsed" in lines

    def of(self, pair: str, method: str, column: str = "test") -> pd.Series:
        """Values of finished runs by seed."""
        return self.values.get(column, {}).get((pair, method), pd.Series(dtype=float))

    @functools.cache  # noqa: B019
    def difference(self, pair: str, method: str, baseline: str) -> pd.Series:
        return (self.of(pair, method) - self.of(pair, baseline)).dropna()

    def fallen(self, pair: str, method: str) -> bool:
        """Whether a method has less than half of scratch's accuracy."""
        return self.collapse and self.of(pair, method).mean() < 0.5 * self.of(pair, "scratch").mean()

    @functools.cache  # noqa: B019
    def not_applicable(self, pair: str, method: str) -> bool:
        own = self.runs[(self.runs["pair"] == pair) & (self.runs["method"] == method)]
        return bool((own["status"] == "n/a").any())

    @functools.cache  # noqa: B019
    def bold(self, pair: str) -> set[str]:
        """The best method, and those whose interval of the difference to it includes 0."""
        tests = {m: self.of(pair, m) for m in self.methods}
        most = max(map(len, tests.values()))
        if most < 2:
            return set()
        best = max((m for m in tests if len(tests[m]) == most), key=lambda m: tests[m].mean())
        compared, near = set(), set()
        for method in set(tests) - {best}:
            x = self.difference(pair, best, method).to_numpy()
            if len(x) >= 2:
                compared.add(method)
                low = t_interval(x)[0]
                if (abs(x.mean()) < 1e-9) if math.isnan(low) else low <= 0:
                    near.add(method)
        if not compared:
            return set()
        if self.collapse:
            lowest = min(tests[m].mean() for m in near | {best})
            near = {m for m in compared if tests[m].mean() >= lowest}
        return near | {best}

    def grid(self, method: str, baseline: str) -> pd.DataFrame:
        """Differences over headline pairs, a row a complete seed."""
        used = [p for p in self.headline if not self.not_applicable(p, method) and not self.not_applicable(p, baseline)]
        return pd.DataFrame({p: self.difference(p, method, baseline).reindex(self.seeds) for p in used}).dropna()

    @functools.cache  # noqa: B019
    def verdict(self, baseline: str) -> dict[str, dict]:
        """Method -> the numbers of its line, for the methods that the CSV holds against a baseline."""
        methods = self.lines[(self.lines["line"] == "verdict") & (self.lines["baseline"] == baseline)]["method"]
        grids = {m: self.grid(m, baseline) for m in methods}
        means = {m: g.mean(axis=1).to_numpy() if g.shape[1] else np.array([]) for m, g in grids.items()}
        tested = {m: x for m, x in means.items() if len(x) > 1}
        p = {m: t_test(x) for m, x in means.items()}
        adjusted = holm(p)
        fallen = {m: [pair for pair in grids[m] if self.fallen(pair, m)] for m in methods}
        steady = [x for m, x in tested.items() if not fallen[m]]
        found = {}
        for m, x in means.items():
            low, high = t_interval(x)
            by_pair = grids[m].mean()
            row = {
                "difference": x.mean() if len(x) else math.nan,
                "low": low,
                "high": high,
                "n": len(x),
                "seeds": len(self.seeds),
                "pairs": grids[m].shape[1],
                "headline": len(self.headline),
                "p": p[m],
                "p_holm": adjusted[m],
                "pairs_better": int((by_pair > 1e-9).sum()),
                "pairs_worse": int((by_pair < -1e-9).sum()),
                "collapsed": ", ".join(fallen[m]),
            }
            others = [by_pair.drop(pair).mean() for pair in by_pair.index] if len(by_pair) > 1 else [math.nan]
            row |= {"without_low": min(others), "without_high": max(others), "pooled": math.nan, "disagree": False}
            if len(steady) > 1 and not fallen[m] and len(x):
                sd, freedom = pooled(steady)
                row["pooled"] = critical(freedom) * sd / math.sqrt(len(x))
                ratio = x.std(ddof=1) / sd if len(x) > 1 else 1.0
                row["disagree"] = bool(ratio > 0 and not 0.5 <= ratio <= 2)
            row["verdict"] = "no test" if math.isnan(p[m]) else "not separated"
            if adjusted[m] <= 0.05:
                row["verdict"] = "better" if row["difference"] > 0 else "worse"
            found[m] = row
        return found

    @functools.cache  # noqa: B019
    def detectable(self, baseline: str) -> tuple[tuple[float, int], tuple[float, int]]:
        """Of the verdict against a baseline, and of a single cell."""
        methods = list(self.verdict(baseline))
        grids = {m: self.grid(m, baseline) for m in methods}
        means = {m: g.mean(axis=1).to_numpy() for m, g in grids.items() if g.shape[1]}
        tests = max(sum(len(x) > 1 for x in means.values()), 1)
        steady = [x for m, x in means.items() if not any(self.fallen(pair, m) for pair in grids[m])]
        pairs = set(self.runs["pair"])
        cells = [self.difference(p, m, baseline).to_numpy() for p in pairs for m in methods if not self.fallen(p, m)]
        return detectable(steady, 0.05 / tests), detectable(cells, 0.05)

    def check_lines(self, checked: Checked) -> None:
        """Every number of the CSV."""
        bold = {pair: self.bold(pair) for pair in self.pairs}
        for line in self.lines[self.lines["line"] != "verdict"].to_dict("records"):
            self.check_cell(line, bold if line["line"] == "cell" else None, checked)
        for baseline, lines in self.lines[self.lines["line"] == "verdict"].groupby("baseline"):
            ours = self.verdict(baseline)
            for line in lines.to_dict("records"):
                row, where = ours[line["method"]], f"{line['block']}, {line['method']} against {baseline}"
                for name in (n for n in line if n.startswith("verdict_") and n != "verdict_reason"):
                    own, theirs = row[name.removeprefix("verdict_")], line[name]
                    if isinstance(own, str | bool):
                        checked.same(f"{where}: {name}", own, own if own == "" and pd.isna(theirs) else theirs)
                    else:
                        checked.number(f"{where}: {name}", own, theirs)

    def check_cell(self, line: dict, bold: dict | None, checked: Checked) -> None:
        pair, method = line["pair"], line["method"]
        where = f"{line['block']}, {pair}, {method}"
        tests, runs = self.of(pair, method), self.runs[self.runs["pair"] == pair]
        statuses = runs[runs["method"] == method]["status"]
        kind = "undecided" if math.isnan(self.gains[pair]) else "headline" if pair in self.headline else "weak"
        checked.same(f"{where}: kind", kind, line["kind"])
        checked.same(f"{where}: status", statuses.iloc[0] if statuses.nunique() == 1 else "partial", line["status"])
        ours = {
            "teacher_test": runs.groupby("seed")["teacher_test"].first().mean(),
            "planned": len(statuses),
            "diverged": int((statuses == "diverged").sum()),
            "missing": int((statuses == "missing").sum()),
            "test_mean": tests.mean(),
            "test_sd": tests.std(ddof=1),
            "test_n": len(tests),
            **{name: self.of(pair, method, column).mean() for name, column in CELL_MEANS.items()},
            "optimism_mean_decides_nothing": (self.of(pair, method, "best_test") - tests).mean(),
            "seconds_over_scratch": (self.of(pair, method, "seconds") / self.of(pair, "scratch", "seconds")).mean(),
        }
        for baseline in (name[6:-5] for name in line if name.startswith("minus_") and name.endswith("_mean")):
            x = self.difference(pair, method, baseline).to_numpy() if method != baseline else np.array([])
            if (bold is not None and baseline in self.methods) or len(x):
                low, high = t_interval(x)
                named = {"mean": x.mean() if len(x) else math.nan, "low": low, "high": high, "n": len(x)}
                ours |= {f"minus_{baseline}_{key}": value for key, value in named.items()}
        if bold is not None:
            checked.same(f"{where}: bold", method in bold[pair], line["bold"])
        for name in set(line) - set(ours) - NO_NUMBERS:
            if not name.startswith(("verdict_", "minus_")):
                checked.wrong.append(f"{where}: nobody recomputes {name}")
        for name, value in ours.items():
            if name in line and not (bold is None and name not in CELL_MEANS and pd.isna(line[name])):
                checked.number(f"{where}: {name}", value, line[name])


# ---------------------------------------------------------------------------------------------------------------- page


def check_page(text: str, blocks: dict[str, Block], checked: Checked) -> None:
    """The tables of accuracies, differences and verdicts of a page, and its sentences on detectable differences."""
    block, title, header, row, baseline = None, "", [], 0, None
    for line in text.splitlines():
        if line.startswith("## "):
            named = re.search(r"\((\S+)\)$", line)
            block = blocks.get(named[1], block) if named else block
        elif line.startswith("### "):
            title, header, row = line[4:].replace("\\", ""), [], 0
            against = re.match(r"(?:Verdict against|Paired difference to) (.*?), (?:over headline pairs|points)", title)
            if against:
                baseline = next(m for m, label in block.labels.items() if label == against[1])
        elif line.startswith("|") and not header:
            header = cells_of(line)
        elif line.startswith("|") and not line.startswith("| ---"):
            cells = cells_of(line)
            if any(cells[1:]):
                check_row(block, title, baseline, header, cells, row, checked)
                row += 1
        elif sizes := re.search(r"([\d.]+) points in this verdict \(.*?n = (\d+)\)", line):
            verdict, cell = block.detectable(baseline)
            checked.printed(f"{title}: detectable", " ".join(sizes.groups()), *verdict)
            if sizes := re.search(r"([\d.]+) points in a single cell \(n = (\d+)\)", line):
                checked.printed(f"{title}: detectable in a cell", " ".join(sizes.groups()), *cell)


def cells_of(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split(" | ")]


def check_row(
    block, title: str, baseline: str, header: list[str], cells: list[str], row: int, checked: Checked
) -> None:
    label = re.sub(r" ?<sup>.*?</sup>", "", cells[0]).replace("\\", "")
    where = f"{title}, {label}"
    if title.startswith("Verdict"):
        method = list(block.verdict(baseline))[row]
        v = block.verdict(baseline)[method]
        checked.same(f"{where}: label", block.labels[method], label)
        checked.printed(where, cells[1], v["difference"], v["low"], v["high"])
        checked.printed(f"{where}: seeds", cells[2], v["n"], v["seeds"])
        checked.printed(f"{where}: pairs", cells[3], v["pairs"], v["headline"])
        if cells[4].startswith("<"):
            checked.same(f"{where}: p", True, v["p_holm"] < 0.001)
        else:
            checked.printed(f"{where}: p", cells[4], v["p_holm"])
        checked.same(f"{where}: verdict", v["verdict"], re.sub(r" ?<sup>.*?</sup>", "", cells[5]))
        return
    if not title.startswith(("Test accuracy", "Paired difference")):
        return
    pairs = ["--".join(part.removesuffix(" →") for part in head.split("<br>")[-2:]) for head in header[1:]]
    for pair, text in zip(pairs, cells[1:], strict=True):
        at = f"{where}, {pair}"
        if title.startswith("Paired"):
            methods = list(block.verdict(baseline))
            x = block.difference(pair, methods[row], baseline).to_numpy()
            checked.same(f"{at}: label", block.labels[methods[row]], label)
            checked.printed(at, text, *([x.mean(), *t_interval(x), len(x)] if len(x) else []))
        elif row == 0:
            x = block.runs[block.runs["pair"] == pair].groupby("seed")["teacher_test"].first()
            sd = [x.std(ddof=1)] if len(x) > 1 and x.std(ddof=1) > 1e-9 else []
            checked.printed(at, text, x.mean(), *sd, len(x))
        elif row == 1:
            checked.printed(at, text, block.gains[pair])
        elif row - 2 < len(block.methods):
            method = block.methods[row - 2]
            x = block.of(pair, method)
            checked.same(f"{at}: label", block.labels[method], label)
            checked.printed(at, text, *([x.mean(), x.std(ddof=1), len(x)] if len(x) else []))
            checked.same(f"{at}: bold", method in block.bold(pair), text.startswith("**"))
        else:
            readings = block.lines[(block.lines["line"] == "reading") & (block.lines["pair"] == pair)]["method"]
            means = [x.mean() for m in readings if len(x := block.of(pair, m)) == len(block.seeds)]
            checked.printed(at, text, min(means), max(means))


def main(suites: list[str]) -> int:
    wrong = []
    for suite in suites:
        count, faults = recompute(suite)
        print(f"{suite}: {count} numbers recomputed, {len(faults)} are others")
        wrong += [f"{suite}: {fault}" for fault in faults]
    print("\n".join(wrong))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
