"""Recompute what the tables of a reference print, from its runs alone and with nothing of kdbench.

    python tests/recompute.py quick tuned glyphs-edition-1        from the root of the repository

Reads results/reference/SUITE/runs.csv, works out every number of tables/reference/SUITE.csv, and holds each number that
tables/reference/SUITE.md prints against them: a table of accuracies, of differences or of verdicts is recognised by its
title, a cell by its row and column, in either layout. Written for being read beside a textbook, not for speed.

Where verdicts have an interval over groups of test samples, about.json says how many samples a group has; a bootstrap
with draws of its own must put each end at its percentile but for the error of 10,000 draws. The same holds for the
intervals over test samples of one seed, where correct.npz tells which of them each run gets right. What that file tells
must also be the test accuracy of each run, and what its groups average to.

Not recomputed: on the page, what tuning chose, and intervals over test samples, which it rounds from the CSV.
config/SUITE.yaml says which modality a student reads.
"""

from __future__ import annotations

import functools
import itertools
import json
import math
import re
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import yaml
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
COSTS = {
    "extra parameters": "extra_parameters",
    "seconds per run": "seconds_mean",
    "time over scratch": "seconds_over_scratch",
    "peak memory, MB": "peak_memory_mb_mean",
}
NO_NUMBERS = {"suite", "edition", "block", "line", "baseline", "pair", "teacher", "student", "method", "label", "group"}
NO_NUMBERS |= {"kind", "status", "bold", "notes", "gradient_shares", "harness", "collapsed"}
FURTHER = ("agreement_right", "agreement_wrong", "ece")
"""Columns of runs that some blocks show also."""
HALF_PRECISION = 0.6
"""Points by which the predictions, kept in half precision, may miss the accuracy that was measured: ties of logits."""
NOT_FROM_RUNS = {"verdict_reason", "verdict_groups_low", "verdict_groups_high"}
"""What verdicts hold and `Block.verdict` does not."""


def models_of(suite: str, root: Path) -> dict[str, dict]:
    """The section `models` of a suite, or of the suite that it extends where it has none of its own."""
    tree = yaml.safe_load((root / f"config/{suite}.yaml").read_text(encoding="utf-8"))
    return tree["models"] if "models" in tree else models_of(tree["extends"], root)


def recompute(suite: str, root: Path = Path()) -> tuple[int, list[str]]:
    """How many numbers of a suite's tables were recomputed, and a line for each that is another."""
    texts = pd.read_csv(root / f"results/reference/{suite}/runs.csv", dtype=str, keep_default_na=False)
    table = pd.read_csv(root / f"tables/reference/{suite}.csv", keep_default_na=False, na_values=[""])
    known = {
        column: texts[column] for column in ("block", "pair", "method", "status", "test_by_group") if column in texts
    }
    numbers = {c: pd.to_numeric(texts[c], errors="coerce") for c in texts if c not in known}
    runs = pd.DataFrame({**known, **numbers})
    runs = runs.assign(budget=runs.get("budget", 1.0))
    reads = {name: model.get("input", "image") for name, model in models_of(suite, root).items()}
    about = root / f"results/reference/{suite}/about.json"
    facts = json.loads(about.read_text(encoding="utf-8"))["blocks"] if about.exists() else {}
    checked = Checked()
    samples = root / f"results/reference/{suite}/correct.npz"
    right = check_samples(samples, runs, checked) if samples.exists() else {}
    blocks = {}
    for name, lines in table.groupby("block", sort=False):
        own = runs[runs["block"] == name]
        sizes = facts.get(name, {}).get("groups", {}).get("sizes", {})
        blocks[name] = Block(own, lines, reads, sizes, right)
    for block in blocks.values():
        block.check_lines(checked)
    check_page((root / f"tables/reference/{suite}.md").read_text(encoding="utf-8"), blocks, checked)
    return checked.count, checked.wrong


def check_samples(path: Path, runs: pd.DataFrame, checked: Checked) -> dict[tuple, np.ndarray]:
    """(pair, method, seed, budget) -> which test samples a run gets right, held against what the run says of itself."""
    with np.load(path) as stored:
        rows = zip(*(stored[name].tolist() for name in ("pair", "method", "seed", "budget", "samples")), strict=True)
        kept = {
            (pair, method, seed, budget): np.unpackbits(bits, count=n) == 1
            for (pair, method, seed, budget, n), bits in zip(rows, stored["bits"], strict=True)
        }
    right = {}
    for run in runs[runs["status"] == "finished"].to_dict("records"):
        key = tuple(run[name] for name in ("pair", "method", "seed", "budget"))
        alone = (f"none--{run['pair'].split('--')[1]}", *key[1:])
        right[key] = kept[key] if key in kept else kept[alone]
        accuracy = 100 * right[key].mean()
        checked.number(f"{path.name}, {key}", accuracy, run["test"], HALF_PRECISION)
    return right


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

    def percentile(self, where: str, points: np.ndarray, share: float, theirs: float) -> None:
        """A percentile of 10,000 bootstrap points lies among ours where it must, but for five standard errors."""
        self.count += 1
        error = 5 * math.sqrt(share * (1 - share) * (1 / 10_000 + 1 / len(points)))
        below, not_above = (points < theirs - 1e-9).mean(), (points <= theirs + 1e-9).mean()
        if not below - error <= share <= not_above + error:
            self.wrong.append(f"{where}: {theirs!r}, and a bootstrap has {below:.1%} of its points below it")

    def printed(self, where: str, text: str, *ours: float | None) -> None:
        """The numbers that a cell prints: as many as we have, each right in all its digits."""
        text = re.sub(r"<sup>.*?</sup>|\{[^}]*\}", "", text).replace("−", "-").replace("\\", "")
        text = re.sub(r"(?<=\d),(?=\d{3})", "", text)
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


def resampled(differences: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Forty thousand bootstrap points of the mean over samples, whose groups are drawn whole."""
    drawn = np.random.default_rng(7).integers(len(sizes), size=(40_000, len(sizes)))
    return (differences[drawn] * sizes[drawn]).sum(axis=1) / sizes[drawn].sum(axis=1)


def needed(scratch: pd.DataFrame, test: float) -> tuple[float, str]:
    """The least compute at which Scratch is as accurate: between its budgets along the line from one best accuracy so
    far to the next, over the logarithm of compute; and "<" or ">" where that is below or beyond all of them."""
    points = sorted(zip(scratch["cost"], scratch["test"], strict=True))
    if test <= points[0][1]:
        return points[0][0], "<"
    best = points[0][1]
    for (before, _), (after, reached) in itertools.pairwise(points):
        if reached >= test:
            return before * (after / before) ** ((test - best) / (reached - best)), ""
        best = max(best, reached)
    return points[-1][0], ">"


# --------------------------------------------------------------------------------------------------------------- block


class Block:
    """The runs of a block and the lines of the CSV about it."""

    def __init__(
        self, every: pd.DataFrame, lines: pd.DataFrame, reads: dict[str, str], sizes: dict[str, int], right: dict
    ) -> None:
        """every: the runs of all budgets; right: of `check_samples`."""
        self.every, self.lines, self.reads, self.sizes, self.right = every, lines, reads, sizes, right
        # Tables show the largest budget of a method unless a suite says otherwise; none of ours does.
        methods = every[every["method"] != "scratch"]
        self.budget = (every if methods.empty else methods)["budget"].max()
        runs = self.runs = every[every["budget"] == self.budget]
        self.cells = lines[lines["line"] == "cell"]
        self.pairs = list(dict.fromkeys(self.cells["pair"]))
        self.labels = dict(zip(self.cells["method"], self.cells["label"], strict=True))
        self.groups = dict(zip(self.cells["method"], self.cells["group"], strict=True))
        self.methods = self.listed(dict.fromkeys(self.cells["method"]))
        done = runs[runs["status"] == "finished"]
        self.values = {
            column: {key: x.dropna() for key, x in done.set_index("seed").groupby(["pair", "method"])[column]}
            for column in {"test", "best_test_of_heads", *CELL_MEANS.values(), *FURTHER} & set(runs)
        }
        self.seeds = sorted(set(runs["seed"]))
        self.gains = {}
        for pair in self.pairs:
            self.gains[pair] = (self.teacher(pair, "val") - self.of(pair, "scratch", "val")).dropna().mean()
        self.headline = [pair for pair in self.pairs if self.gains[pair] >= 3 - 1e-9]
        # Whether these tables leave collapsed rows out of what is pooled, and close bold sets upwards.
        self.collapse = "verdict_collapsed" in lines

    def of(self, pair: str, method: str, column: str = "test") -> pd.Series:
        """Values of finished runs by seed."""
        return self.values.get(column, {}).get((pair, method), pd.Series(dtype=float))

    def authors_selection(self, pair: str, method: str) -> dict[str, float]:
        """The best of all heads and epochs, where a run of the block has several heads."""
        if not any(values.notna().any() for values in self.values.get("best_test_of_heads", {}).values()):
            return {}
        of_heads = self.of(pair, method, "best_test_of_heads")
        best = of_heads.combine_first(self.of(pair, method, "best_test")).mean()
        return {"authors_selection_mean_decides_nothing": best}

    @functools.cache  # noqa: B019
    def difference(self, pair: str, method: str, baseline: str) -> pd.Series:
        return (self.of(pair, method) - self.of(pair, baseline)).dropna()

    def teacher(self, pair: str, split: str = "test") -> pd.Series:
        return self.runs[self.runs["pair"] == pair].groupby("seed")[f"teacher_{split}"].first().dropna()

    def test_gain(self, pair: str) -> float:
        return (self.teacher(pair) - self.of(pair, "scratch")).dropna().mean()

    def mean(self, method: str | None) -> pd.Series:
        """Accuracy over headline pairs of a method, or of the teachers, by complete seed."""
        pairs = [p for p in self.headline if not method or not self.not_applicable(p, method)]
        tests = {p: self.of(p, method) if method else self.teacher(p) for p in pairs}
        return pd.DataFrame(tests).reindex(self.seeds).dropna().mean(axis=1)

    def fallen(self, pair: str, method: str) -> bool:
        """Whether a method has less than half of scratch's accuracy."""
        return self.collapse and self.of(pair, method).mean() < 0.5 * self.of(pair, "scratch").mean()

    @functools.cache  # noqa: B019
    def not_applicable(self, pair: str, method: str) -> bool:
        own = self.runs[(self.runs["pair"] == pair) & (self.runs["method"] == method)]
        return bool((own["status"] == "n/a").any())

    @functools.cache  # noqa: B019
    def bold(self, pair: str | None) -> set[str]:
        """The best method of a pair, or of the mean over headline pairs, and those whose interval of the difference to
        it includes 0."""
        tests = {m: self.of(pair, m) if pair else self.mean(m) for m in self.methods}
        most = max(map(len, tests.values()))
        if most < 2:
            return set()
        best = max((m for m in tests if len(tests[m]) == most), key=lambda m: tests[m].mean())
        compared, near = set(), set()
        for method in set(tests) - {best}:
            x = (tests[best] - tests[method]).dropna().to_numpy()
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

    def grid(self, method: str, baseline: str, pairs: list[str] | None = None) -> pd.DataFrame:
        """Differences over headline pairs, or these, a row a complete seed."""
        pairs = self.headline if pairs is None else pairs
        used = [p for p in pairs if not self.not_applicable(p, method) and not self.not_applicable(p, baseline)]
        return pd.DataFrame({p: self.difference(p, method, baseline).reindex(self.seeds) for p in used}).dropna()

    def listed(self, methods) -> list[str]:
        """Methods as a page lists them: group by group, in the order of their first methods."""
        groups = list(dict.fromkeys(self.groups[m] for m in methods))
        return sorted(methods, key=lambda m: groups.index(self.groups[m]))

    @functools.cache  # noqa: B019
    def verdict(self, baseline: str) -> dict[str, dict]:
        """Method -> the numbers of its line, for the methods that the CSV holds against a baseline."""
        methods = self.listed(
            self.lines[(self.lines["line"] == "verdict") & (self.lines["baseline"] == baseline)]["method"]
        )
        grids = {m: self.grid(m, baseline) for m in methods}
        means = {m: g.mean(axis=1).to_numpy() if g.shape[1] else np.array([]) for m, g in grids.items()}
        tested = {m: x for m, x in means.items() if len(x) > 1}
        p = {m: t_test(x) for m, x in means.items()}
        adjusted = holm(p)
        fallen = {m: [pair for pair in grids[m] if self.fallen(pair, m)] for m in methods}
        steady = [x for m, x in tested.items() if not fallen[m]]
        found = {}
        for m, x in means.items():
            row = found[m] = self.summary(grids[m])
            row |= {"p_holm": adjusted[m], "collapsed": "; ".join(fallen[m]), "pooled": math.nan, "disagree": False}
            if len(steady) > 1 and not fallen[m] and len(x):
                sd, freedom = pooled(steady)
                row["pooled"] = critical(freedom) * sd / math.sqrt(len(x))
                ratio = x.std(ddof=1) / sd if len(x) > 1 else 1.0
                row["disagree"] = bool(ratio > 0 and not 0.5 <= ratio <= 2)
            row["verdict"] = "no test" if math.isnan(p[m]) else "not separated"
            if adjusted[m] <= 0.05:
                row["verdict"] = "better" if row["difference"] > 0 else "worse"
        return found

    def summary(self, grid: pd.DataFrame) -> dict:
        """What is printed of differences over headline pairs, a row a complete seed, whatever the family of tests."""
        x, by_pair = grid.mean(axis=1).to_numpy() if grid.shape[1] else np.array([]), grid.mean()
        low, high = t_interval(x)
        others = [by_pair.drop(pair).mean() for pair in by_pair.index] if len(by_pair) > 1 else [math.nan]
        return {
            "difference": x.mean() if len(x) else math.nan,
            "low": low,
            "high": high,
            "n": len(x),
            "seeds": len(self.seeds),
            "pairs": grid.shape[1],
            "headline": len(self.headline),
            "p": t_test(x),
            "pairs_better": int((by_pair > 1e-9).sum()),
            "pairs_worse": int((by_pair < -1e-9).sum()),
            "without_low": min(others),
            "without_high": max(others),
        }

    def by_group(self, method: str, baseline: str) -> np.ndarray | None:
        """The difference of a verdict in each group of test samples; None where its interval has no meaning."""
        texts = self.runs.set_index(["pair", "method", "seed"])["test_by_group"]
        grid = self.grid(method, baseline)
        found = [(texts[pair, method, seed], texts[pair, baseline, seed]) for pair in grid for seed in grid.index]
        if len(self.sizes) < 3 or not found or any("" in both for both in found):
            return None
        read = [(json.loads(own), json.loads(base)) for own, base in found]
        # Where seeds have test sets of their own, a group is in some of them.
        means = np.array(
            [np.mean([own[group] - base[group] for own, base in read if group in own]) for group in self.sizes]
        )
        return means if np.ptp(means) > 1e-9 else None

    def check_groups(self, where: str, line: dict, checked: Checked) -> None:
        """The interval over groups of a line of verdicts. What stands there then is what the page must print."""
        differences = self.by_group(line["method"], line["baseline"])
        points = None if differences is None else resampled(differences, np.array(list(self.sizes.values())))
        for end, share in (("low", 0.025), ("high", 0.975)):
            name = f"verdict_groups_{end}"
            if points is None:
                checked.number(f"{where}: {name}", math.nan, line[name])
            else:
                checked.percentile(f"{where}: {name}", points, share, line[name])
            self.verdict(line["baseline"])[line["method"]][f"groups_{end}"] = line[name]

    def decisions(self, labels: list[str], margins: list[float]) -> list[dict]:
        """Of the rows of a table of claims with margins."""
        rows = [self.claim(label, self.pairs) for label in labels]
        adjusted = holm({i: row["p"] for i, row in enumerate(rows)})
        for i, (row, margin) in enumerate(zip(rows, margins, strict=True)):
            met = "supported" if row["difference"] > margin and row["low"] > 0 else "undecided"
            word = "contradicted" if row["high"] < margin else met
            row |= {"p_holm": adjusted[i], "margin": margin, "decision": "no test" if math.isnan(row["low"]) else word}
        return rows

    def claim(self, label: str, pairs: list[str] | None = None) -> dict:
        """Of "A minus B", or "A minus B, students that read M": such directions are not pooled. pairs: in place of the
        headline pairs."""
        names, _, read = label.partition(", students that read ")
        method, control = (next(m for m in self.methods if self.labels[m] == name) for name in names.split(" minus "))
        grid = self.grid(method, control, pairs)
        grid = grid[[pair for pair in grid if not read or self.reads[pair.split("--")[1]] == read]]
        row = self.summary(grid)
        return row | {"headline": grid.shape[1], "p_holm": row["p"]}

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
        self.check_groups_average(checked)
        bold = {pair: self.bold(pair) for pair in self.pairs}
        for line in self.lines[self.lines["line"] != "verdict"].to_dict("records"):
            self.check_cell(line, bold if line["line"] == "cell" else None, checked)
        for baseline, lines in self.lines[self.lines["line"] == "verdict"].groupby("baseline"):
            ours = self.verdict(baseline)
            for line in lines.to_dict("records"):
                row, where = ours[line["method"]], f"{line['block']}, {line['method']} against {baseline}"
                if "verdict_groups_low" in line:
                    self.check_groups(where, line, checked)
                for name in (n for n in line if n.startswith("verdict_") and n not in NOT_FROM_RUNS):
                    own, theirs = row[name.removeprefix("verdict_")], line[name]
                    if isinstance(own, str | bool):
                        checked.same(f"{where}: {name}", own, own if own == "" and pd.isna(theirs) else theirs)
                    else:
                        checked.number(f"{where}: {name}", own, theirs)

    def check_images(self, where: str, line: dict, baseline: str, checked: Checked) -> None:
        """The interval over test samples of a difference of one seed: resampled are the samples."""
        ends = {share: line.get(f"minus_{baseline}_images_{end}") for end, share in (("low", 0.025), ("high", 0.975))}
        if ends[0.025] is None or pd.isna(ends[0.025]):
            return
        own, base = (self.right[line["pair"], m, self.seeds[0], self.budget] for m in (line["method"], baseline))
        better, worse, n = (own & ~base).mean(), (base & ~own).mean(), len(own)
        drawn = np.random.default_rng(11).multinomial(n, [better, worse, 1 - better - worse], size=40_000)
        for share, theirs in ends.items():
            checked.percentile(f"{where}: images", 100 * (drawn[:, 0] - drawn[:, 1]) / n, share, theirs)

    def check_groups_average(self, checked: Checked) -> None:
        """Accuracies by group are those of the samples that correct.npz tells of."""
        for run in self.runs[self.runs["status"] == "finished"].to_dict("records"):
            key = tuple(run[name] for name in ("pair", "method", "seed", "budget"))
            if run.get("test_by_group") and key in self.right:
                found = json.loads(run["test_by_group"])
                mean = np.average(list(found.values()), weights=[self.sizes[group] for group in found])
                checked.number(f"{key}: groups", 100 * self.right[key].mean(), mean)

    @functools.cached_property
    def worth(self) -> dict[tuple, tuple[float, float, float, str]]:
        """(pair, method, budget) -> what a method is worth in Scratch's compute, its interval, and ">", "<" or "?"
        where a seed is worth more or less than Scratch's budgets can tell."""
        done = self.every[self.every["status"] == "finished"]
        a_step = done["operations_per_step"] + done["teacher_operations_per_step"]
        done = done.assign(cost=a_step * done["steps"]).dropna(subset=["cost", "test"])
        ratios: dict[tuple, list] = {}
        for run in done[done["method"] != "scratch"].to_dict("records"):
            own = (done["method"] == "scratch") & (done["pair"] == run["pair"]) & (done["seed"] == run["seed"])
            if own.sum() > 1:
                cost, beyond = needed(done[own], run["test"])
                key = run["pair"], run["method"], run["budget"]
                ratios.setdefault(key, []).append((math.log(cost / run["cost"]), beyond))
        found = {}
        for key, seeds in ratios.items():
            logs, beyond = np.array([log for log, _ in seeds]), {mark for _, mark in seeds} - {""}
            low, high = (math.nan, math.nan) if beyond else t_interval(logs)
            found[key] = *(math.exp(x) for x in (logs.mean(), low, high)), "?" if len(beyond) == 2 else "".join(beyond)
        return found

    def worth_more(self) -> list[tuple[str, str]]:
        """(label, pair) of what is worth more than it costs at the budget that is shown, row by row."""
        cells = [(pair, method) for pair in sorted(self.pairs) for method in sorted(self.methods)]
        found = [(cell, self.worth.get((*cell, self.budget), (0, 0, 0, "?"))) for cell in cells]
        proven = [
            cell for cell, (ratio, low, _, mark) in found if (ratio if mark == ">" else low) > 1 and mark in ("", ">")
        ]
        return [(self.labels[method], pair) for pair, method in proven]

    def scratch(self, student: str, split: str, budget: float) -> pd.Series:
        """Accuracy of Scratch at a budget, by seed."""
        own = self.every[(self.every["method"] == "scratch") & (self.every["status"] == "finished")]
        own = own[own["pair"].str.endswith(f"--{student}") & (own["budget"] == budget)]
        return own.drop_duplicates("seed").set_index("seed")[split].dropna()

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
            **self.authors_selection(pair, method),
            "seconds_over_scratch": (self.of(pair, method, "seconds") / self.of(pair, "scratch", "seconds")).mean(),
        }
        for name in (name for name in FURTHER if f"{name}_mean" in line):
            values = self.of(pair, method, name)
            ours |= {f"{name}_mean": values.mean(), f"{name}_sd": values.std(ddof=1), f"{name}_n": len(values)}
        for baseline in (name[6:-5] for name in line if name.startswith("minus_") and name.endswith("_mean")):
            self.check_images(where, line, baseline, checked)
            x = self.difference(pair, method, baseline).to_numpy() if method != baseline else np.array([])
            if (bold is not None and baseline in self.methods) or len(x):
                low, high = t_interval(x)
                named = {"mean": x.mean() if len(x) else math.nan, "low": low, "high": high, "n": len(x)}
                ours |= {f"minus_{baseline}_{key}": value for key, value in named.items()}
        if bold is not None:
            checked.same(f"{where}: bold", method in bold[pair], line["bold"])
            checked.same(f"{where}: collapsed", self.fallen(pair, method), line.get("collapsed", False))
        for name in set(line) - set(ours) - NO_NUMBERS:
            if not name.startswith(("verdict_", "minus_")):
                checked.wrong.append(f"{where}: nobody recomputes {name}")
        for name, value in ours.items():
            if name in line and not (bold is None and name not in CELL_MEANS and pd.isna(line[name])):
                checked.number(f"{where}: {name}", value, line[name])


# ---------------------------------------------------------------------------------------------------------------- page


def check_page(text: str, blocks: dict[str, Block], checked: Checked) -> None:
    """The tables of accuracies, differences and verdicts of a page, and its sentences on detectable differences."""
    block, title, baseline, table = None, "", None, []
    for line in [*text.splitlines(), ""]:
        if line.startswith("|"):
            table.append([cell.strip() for cell in line.strip("|").split(" | ")])
            continue
        if table:
            # Below the rule; what has a first cell only is the heading of a group.
            rows = [cells for cells in table[2:] if any(cells[1:])]
            check_table(block, title, baseline, [head.split("<br>") for head in table[0]], rows, checked)
            table = []
        if line.startswith("## "):
            named = re.search(r"\((\S+)\)$", line)
            block = blocks.get(named[1], block) if named else block
        elif line.startswith("### "):
            title = line[4:].replace("\\", "")
            against = re.match(r"(?:Verdict against|Paired difference to) (.*?), (?:over headline pairs|points)", title)
            baseline = next(m for m, label in block.labels.items() if label == against[1]) if against else "scratch"
        elif told := re.search(
            r"(?:Worth|No method is worth) more than it costs at budget ([\d.]+)(?:: (.*))?\.$", line
        ):
            checked.number(f"{title}: budget", block.budget, float(told[1]))
            listed = told[2].replace("\\", "").split("; ") if told[2] else []
            ours = [f"{label} on {pair.replace('--', ' → ')}" for label, pair in block.worth_more()]
            checked.same(f"{title}: worth more", sorted(ours), sorted(listed))
        elif sizes := re.search(r"([\d.]+) points in this verdict \(.*?n = (\d+)\)", line):
            verdict, cell = block.detectable(baseline)
            checked.printed(f"{title}: detectable", " ".join(sizes.groups()), *verdict)
            if sizes := re.search(r"([\d.]+) points in a single cell \(n = (\d+)\)", line):
                checked.printed(f"{title}: detectable in a cell", " ".join(sizes.groups()), *cell)


def check_table(block: Block, title: str, baseline: str, heads: list, rows: list, checked: Checked) -> None:
    if title.startswith("Verdict"):
        for method, cells in zip(block.verdict(baseline), rows, strict=True):
            where = f"{title}, {method}"
            checked.same(f"{where}: label", block.labels[method], bare(cells[0]))
            for head, text in zip(heads[1:], cells[1:], strict=True):
                check_verdict(where, " ".join(head), text, block.verdict(baseline)[method], checked)
    elif title.startswith("Claims with a margin"):
        margins = [float(cells[-2]) for cells in rows]
        for v, cells in zip(block.decisions([bare(cells[0]) for cells in rows], margins), rows, strict=True):
            where = f"{title}, {cells[0]}"
            *heads_of_numbers, last = heads[1:]
            checked.same(f"{where}: {last[0]}", v["decision"], bare(cells[-1]))
            for head, text in zip(heads_of_numbers, cells[1:-1], strict=True):
                own = v | {"p_holm": v["p"]} if head == ["p", "(unadjusted)"] else v
                check_verdict(where, " ".join(head), text, own, checked)
    elif title.startswith("Claims"):
        for cells in rows:
            for head, text in zip(heads[1:], cells[1:], strict=True):
                check_verdict(f"{title}, {cells[0]}", " ".join(head), text, block.claim(bare(cells[0])), checked)
    elif title.startswith("What a method is worth"):
        check_worth(block, title, heads, rows, checked)
    elif title.startswith("Scratch: test accuracy at every budget"):
        check_scratch(block, title, heads, rows, checked)
    elif title.startswith("Cost"):
        for method, cells in zip(block.methods, rows, strict=True):
            own = block.cells[block.cells["method"] == method]
            for head, text in zip(heads[1:], cells[1:], strict=True):
                if name := COSTS.get(" ".join(head)):
                    ends = [own[name].min(), own[name].max()] if " to " in text else [own[name].max()]
                    checked.printed(f"{title}, {method}, {name}", text, *ends)
    elif title.startswith(("Test accuracy", "Paired difference")):
        methods = list(block.verdict(baseline)) if title.startswith("Paired") else block.methods
        against = baseline if title.startswith("Paired") else None
        by_row = heads[0] == ["Method"]
        names = [bare(cells[0]) for cells in rows] if by_row else [" ".join(head) for head in heads[2:]]
        whose = methods_of(names, methods, block, None if by_row else [head[0] for head in heads[2:]])
        if by_row:
            pairs = ["--".join(part.removesuffix(" →") for part in head[-2:]) for head in heads[1:]]
            places = [(pair, i, cells[j]) for i, cells in enumerate(rows) for j, pair in enumerate(pairs, 1)]
        else:
            places = [
                (f"{row[0]}--{row[1]}" if row[1] else row[0], i, text) for row in rows for i, text in enumerate(row[2:])
            ]
        for pair, i, text in places:
            if pair != "harness":
                check_number(block, f"{title}, {pair}, {names[i]}", pair, names[i], whose[i], against, text, checked)


def check_worth(block: Block, title: str, heads: list, rows: list, checked: Checked) -> None:
    """Budgets stand below each other, each with all methods."""
    methods = [m for m in block.methods if m != "scratch"]
    budgets = list(dict.fromkeys(block.every[block.every["method"] != "scratch"]["budget"]))
    signs = {">": "≥", "<": "≤", "": ""}
    for (budget, method), cells in zip(((b, m) for b in budgets for m in methods), rows, strict=True):
        checked.same(f"{title}, {method}: label", block.labels[method], bare(cells[0]))
        for head, text in zip(heads[1:], cells[1:], strict=True):
            where = f"{title}, {method} at budget {budget:g}, {' '.join(head)}"
            *numbers, mark = block.worth.get(("--".join(head), method, budget), (math.nan, math.nan, math.nan, "?"))
            checked.same(f"{where}: bound", signs.get(mark, "—"), text[0] if text[0] in "≥≤—" else "")
            checked.printed(where, text, *(numbers if mark != "?" else ()))


def check_scratch(block: Block, title: str, heads: list, rows: list, checked: Checked) -> None:
    for cells in rows:
        for head, text in zip(heads[1:], cells[1:], strict=True):
            where, (first, second) = f"{title}, {cells[0]}, {' '.join(head)}", head
            if first == "budget":
                x = block.scratch(cells[0], "test", float(second))
                checked.printed(where, text, x.mean(), x.std(ddof=1))
            else:
                before, after = map(float, first.rstrip(",").split(" to "))
                split = {"test": "test", "validation": "val"}[second]
                gain = (block.scratch(cells[0], split, after) - block.scratch(cells[0], split, before)).dropna()
                checked.printed(where, text, gain.mean(), *t_interval(gain.to_numpy()))


def methods_of(names: list[str], methods: list[str], block: Block, groups: list[str] | None) -> list[str | None]:
    """The method that each row or column is about, None where it is about none. Columns have short labels, so these are
    told apart by their order within a group."""
    if groups is None:
        rest = list(methods)
        return [rest.pop(0) if rest and block.labels[rest[0]] == name else None for name in names]
    of_group = {
        group: [m for m in methods if block.groups[m].casefold() == group.casefold()] for group in dict.fromkeys(groups)
    }
    return [of_group[group].pop(0) if of_group[group] else None for group in groups]


def bare(text: str) -> str:
    return re.sub(r" ?<sup>.*?</sup>", "", text).replace("\\", "").strip("*")


def check_verdict(where: str, head: str, text: str, v: dict, checked: Checked) -> None:
    columns = {
        r"\[95 % bootstrap": ("groups_low", "groups_high"),
        "difference": ("difference", "low", "high"),
        "± error": ("pooled",),
        "with any one pair": ("without_low", "without_high"),
        "better / worse": ("pairs_better", "pairs_worse", "headline"),
        "complete": ("n", "seeds"),
        "margin": ("margin",),
        "headline": ("pairs", "headline"),
    }
    if head.startswith("verdict"):
        checked.same(f"{where}: verdict", v["verdict"] + (", collapsed" if v["collapsed"] else ""), bare(text))
    elif head.startswith("p") and "<" in text.replace("&lt;", "<").partition("<sup>")[0]:
        checked.same(f"{where}: p", True, v["p_holm"] < 0.001)
    elif head.startswith("p"):
        checked.printed(f"{where}: p", text, v["p_holm"])
    else:
        names = next(own for start, own in columns.items() if head.startswith(start))
        checked.printed(f"{where}: {head}", text, *(v[name] for name in names))


def check_number(
    block: Block, where: str, pair: str, name: str, method: str | None, against: str | None, text: str, checked: Checked
) -> None:
    """A cell of a table of accuracies, or of differences to `against`; `pair` may be the name of a row of sums."""
    summed = pair not in block.pairs
    if summed and not pair.startswith("mean over"):
        v = block.verdict("scratch").get(method)
        if v and pair.startswith("pairs better"):
            checked.printed(where, text, v["pairs_better"], v["pairs_worse"])
        elif v:
            checked.same(where, v["verdict"].replace("not separated", "n.s."), bare(text))
        else:
            checked.same(where, "", text)
    elif method and against:
        x = block.difference(pair, method, against).to_numpy()
        check_values(block, where, text, x, [x.mean(), *t_interval(x)] if len(x) else [], checked)
    elif method or name in ("test accuracy", "Teacher accuracy"):
        x = block.mean(method) if summed else block.of(pair, method) if method else block.teacher(pair)
        spread = x.std(ddof=1) if method or len(x) < 2 or x.std(ddof=1) > 1e-9 else math.nan
        check_values(block, where, text, x, [x.mean(), spread], checked)
        if method:
            bold = block.bold(None if summed else pair)
            checked.same(f"{where}: bold", method in bold, text.startswith("**"))
    elif summed:
        checked.same(where, "", text)
    elif name.startswith(("gain over scratch", "minus scratch", "Teacher gap")):
        gaps = [block.gains[pair], block.test_gain(pair)]
        checked.printed(where, text, *gaps[: 1 + text.count(" / ")])
    else:
        lines = block.lines[(block.lines["line"] == "reading") & (block.lines["pair"] == pair)]
        means = [x.mean() for m in lines["method"] if len(x := block.of(pair, m)) == len(block.seeds)]
        checked.printed(where, text, min(means), max(means))


def check_values(block: Block, where: str, text: str, x, ours: list, checked: Checked) -> None:
    """Numbers of a cell, and how many seeds it is over where it says so; else these are all."""
    if "(" in re.sub(r"<sup>.*?</sup>", "", text):
        ours = [*ours, len(x)]
    elif len(x):
        checked.same(f"{where}: seeds", len(block.seeds), len(x))
    checked.printed(where, text, *ours)


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
