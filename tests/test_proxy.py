"""One suite as a proxy for another: rank correlations against scipy and by hand, and which cells two suites share."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from conftest import REPOSITORY, TINY, tiny, tiny_plan
from fakes import block
from scipy import stats as st

from kdbench import cli
from kdbench.files import write_text
from kdbench.plan.suite import check_suite, load_suite
from kdbench.report import proxy, stats
from kdbench.report.stats import Interval
from kdbench.results.reference import Reference
from kdbench.types import KdbenchError

# ------------------------------------------------------------------------------------------------------ the correlation


def effects_of(methods, pairs, seed=0, noise=1.0):
    """Two tables of effects whose methods and pairs have something in common."""
    rng = np.random.default_rng(seed)
    common = rng.normal(size=(methods, 1)) + rng.normal(size=(1, pairs))
    return [common + noise * rng.normal(size=common.shape) for _ in range(2)]


def test_the_correlation_is_that_of_scipy_and_its_interval_draws_methods_and_pairs():
    x, y = effects_of(6, 4)
    x, y = np.round(x, 1), np.round(y, 1)  # with ties
    x[0, 1] = y[2, 3] = np.nan
    both = np.isfinite(x) & np.isfinite(y)
    cells, means = stats.crossed_spearman(x, y), stats.crossed_spearman(x, y, averaged=True)
    assert cells.mean == pytest.approx(st.spearmanr(x[both], y[both]).statistic) and cells.n == 22
    whole = [1, 3, 4, 5]
    assert means.mean == pytest.approx(st.spearmanr(x[whole].mean(1), y[whole].mean(1)).statistic) and means.n == 4
    # By hand: the cells where drawn methods and drawn pairs cross, each as often as it was drawn.
    rng, again = np.random.default_rng(5), []
    for _ in range(300):
        drawn = [(m, p) for m, p in itertools.product(rng.choice(6, 6), rng.choice(4, 4)) if both[m, p]]
        again.append(st.spearmanr(*np.array([(x[cell], y[cell]) for cell in drawn]).T).statistic)
    assert [cells.low, cells.high] == pytest.approx(np.nanquantile(again, [0.025, 0.975]), abs=0.08)
    assert stats.crossed_spearman(x, y) == cells


def test_the_correlation_by_hand():
    """Ranks 1 to 6 against 1, 3, 2, 4, 6, 5: the squared differences sum to 4, so 1 - 6 * 4 / (6 * 35). The means over
    pairs have the ranks 1, 2, 3 in both."""
    x = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    y = np.array([[10.0, 30.0], [20.0, 40.0], [60.0, 50.0]])
    assert stats.crossed_spearman(x, y).mean == pytest.approx(1 - 24 / 210)
    assert stats.crossed_spearman(x, y, averaged=True).mean == pytest.approx(1.0)


def test_what_has_no_interval_and_what_no_correlation():
    x, y = effects_of(5, 3)
    assert stats.crossed_spearman(x[:2], y[:2])[1:] == (None, None, 6)
    assert stats.crossed_spearman(x, np.ones_like(y)) == (None, None, None, 15)
    assert stats.crossed_spearman(x, x**3) == (pytest.approx(1.0), None, None, 15), "a perfect order is no certainty"
    assert stats.crossed_spearman(np.full((4, 2), np.nan), y[:4, :2]) == (None, None, None, 0)
    one_lacks = np.where(np.eye(5, 3, dtype=bool), np.nan, x)
    assert stats.crossed_spearman(one_lacks, y, averaged=True).n == 2


def test_more_methods_make_it_narrower():
    few, many = (stats.crossed_spearman(*effects_of(n, 6, noise=0.7)) for n in (4, 30))
    assert many.high - many.low < 0.6 * (few.high - few.low)


# ---------------------------------------------------------------------------------------------- what two suites share


def suite(name, rows, pairs, gain, seeds=(0, 1, 2), **changes):
    """A suite in config/ and its reference; gain(pair, method, seed): points over Scratch's 70."""
    tree = tiny(seeds=list(seeds), blocks={"main": block(rows, pairs=list(pairs))}, **changes)
    write_text(Path(f"config/{name}.yaml"), yaml.safe_dump(tree, sort_keys=False))
    found, runs = load_suite(name), []
    for b in found.blocks:
        for pair, method, seed in itertools.product(b.pairs, b.methods, b.seeds):
            got = None if method.id == "scratch" else gain(pair.id, method.id, seed)
            row = {"block": b.name, "pair": pair.id, "method": method.id, "label": method.label, "seed": seed}
            row |= {"budget": 1, "edition": 1, "status": "diverged" if got is np.nan else "finished"}
            row |= {"key": f"{pair.id} {method.id} {seed}", "finished_at": None, "hardware": None}
            row |= {"test": 70 + (got or 0.0), "val": 70 + (got or 0.0), "teacher_val": 90.0, "teacher_test": 90.0}
            runs.append(row)
    frame = pd.DataFrame(runs)
    if "weak" in changes.get("title", ""):
        frame.loc[frame["pair"] == found.blocks[0].pairs[0].id, "teacher_val"] = 71.0
    write_text(Path(f"results/reference/{name}/runs.csv"), frame.to_csv(index=False))
    return Reference(found)


PAIRS = ("cnn-t -> vit-s", "cnn-t -> mlp-s", "cnn-t -> cnn-s")
METHODS = ("scratch", "kd", "dkd", "uhkd", "ofa")
GAINS = {"kd": 1.0, "dkd": 2.0, "uhkd": 4.0, "ofa": 3.0}


def gain(pair, method, seed):
    return GAINS[method] * (1 + len(pair) / 10) + 0.1 * seed


def opposite(pair, method, seed):
    return -gain(pair, method, seed)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_effects_are_those_of_the_committed_table(monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    found = proxy.effects(Reference(load_suite("quick")))
    table = pd.read_csv("tables/reference/quick.csv").query("line == 'cell' and block == 'heterogeneous'")
    assert len(found) == 24, "pictures that teach outlines are no pair of families"
    families = {"cnn": "CNN", "vit": "ViT", "mlp": "MLP"}
    for line in table[table["method"] != "scratch"].to_dict("records"):
        pair = " → ".join(families[line[end][:3]] for end in ("teacher", "student"))
        row = found.loc[pair].query("method == @line['method']").iloc[0]
        told = [line[f"minus_scratch_{name}"] for name in ("mean", "low", "high", "n")]
        assert row[["effect", "low", "high", "n"]].tolist() == pytest.approx(told)


def test_pairs_meet_by_family_and_methods_by_parameters():
    names = {"cnn-t": "big-cnn", "vit-s": "small-vit", "cnn-s": "small-cnn", "mlp-s": "small-mlp"}
    models = {names[name]: model for name, model in TINY["models"].items()} | {"other-vit": TINY["models"]["vit-s"]}
    pairs = ("big-cnn -> small-vit", "big-cnn -> other-vit", "big-cnn -> small-mlp")
    own = {"my-kd": {"method": "kd"}, "ofa": {"temperature": 2.0}}
    a = suite("cheap", METHODS, PAIRS, gain)
    methods = ("scratch", "my-kd", "dkd", "uhkd", "ofa")
    b = suite("dear", methods, pairs, lambda *run: len(run[0]) + len(run[1]), models=models, methods=own)
    found = proxy.compare(a, b)
    assert set(found.cells["pair"]) == {"CNN → ViT", "CNN → MLP"}
    assert set(found.cells["method"]) == {"kd", "dkd", "uhkd"}, "ofa has another temperature there"
    row = found.cells.set_index(["pair", "method"]).loc["CNN → ViT", "kd"]
    assert row["effect_a"] == pytest.approx(1 + 1.2 + 0.1) and row["n_a"] == row["n_b"] == 3
    lengths = [len(pair.replace(" -> ", "--")) for pair in pairs[:2]]
    assert row["effect_b"] == pytest.approx(np.mean(lengths) + len("my-kd")), "two pairs of these families"


def test_weak_pairs_and_runs_without_a_result_are_left_out():
    a = suite("cheap", METHODS, PAIRS, gain, title="its first teacher is weak")
    b = suite("dear", METHODS, PAIRS, lambda p, m, s: np.nan if (m, s) == ("kd", 2) else gain(p, m, s))
    found = proxy.compare(a, b)
    assert set(found.cells["pair"]) == {"CNN → MLP", "CNN → CNN"}
    counts = found.cells.groupby("method")["n_b"].first()
    assert counts["kd"] == 2 and counts["dkd"] == 3
    b = suite("dear", METHODS, PAIRS, lambda p, m, s: np.nan if m == "kd" else gain(p, m, s))
    assert set(proxy.compare(a, b).cells["method"]) == {"dkd", "uhkd", "ofa"}


def test_the_first_block_that_has_a_cell_gives_it():
    blocks = {"main": block(METHODS, pairs=list(PAIRS)), "again": block(("scratch", "kd", "uhkd"), pairs=[PAIRS[0]])}
    write_text(Path("config/cheap.yaml"), yaml.safe_dump(tiny(blocks=blocks), sort_keys=False))
    a = suite("cheap", METHODS, PAIRS, gain)
    assert not proxy.effects(a).index.has_duplicates
    tree = tiny(seeds=[0, 1, 2], blocks=blocks)
    write_text(Path("config/cheap.yaml"), yaml.safe_dump(tree, sort_keys=False))
    runs = pd.read_csv("results/reference/cheap/runs.csv")
    again = runs[(runs["pair"] == "cnn-t--vit-s") & runs["method"].isin(["scratch", "kd", "uhkd"])]
    again = again.assign(block="again", test=again["test"] - 20 * (again["method"] != "scratch"))
    write_text(Path("results/reference/cheap/runs.csv"), pd.concat([runs, again]).to_csv(index=False))
    assert proxy.effects(Reference(load_suite("cheap"))).equals(proxy.effects(a))


@pytest.mark.parametrize("methods", [("scratch", "kd"), ("kd", "dkd", "uhkd")])
def test_too_little_in_common_is_refused(methods, capsys):
    suite("cheap", METHODS, PAIRS, gain)
    suite("dear", methods, PAIRS, gain)
    shared = len(methods) - 1 if "scratch" in methods else 0
    assert cli.main(["proxy", "cheap", "dear"]) == 2
    told = capsys.readouterr().err
    assert f"cheap and dear share {shared} method{'' if shared == 1 else 's'} with the same parameters" in told
    assert told.count("\n") == 1
    with pytest.raises(KdbenchError, match="a rank correlation takes 3"):
        proxy.compare(*(Reference(load_suite(name)) for name in ("cheap", "dear")))


# ------------------------------------------------------------------------------------------------------------ the verb


@pytest.mark.parametrize(
    ("interval", "verdict"),
    [
        (Interval(0.8, 0.51, 0.95, 12), "dear: "),
        (Interval(0.8, 0.49, 0.95, 12), "is undecided: "),
        (Interval(0.2, -0.3, 0.49, 12), "cheap is no proxy for dear: "),
        (Interval(1.0, None, None, 12), "is undecided: ρ = 1.00, without an interval, over 12 cells"),
        (Interval(None, None, None, 12), "cannot be said"),
    ],
)
def test_the_verdict_goes_by_the_interval(interval, verdict):
    a, b = (replace(tiny_plan().suite, name=name) for name in ("cheap", "dear"))
    told = proxy.verdict_sentence(proxy.Proxy(a, b, pd.DataFrame(), interval, interval))
    assert verdict in told and ("is a valid proxy" in told) == (interval.low == 0.51)


def test_the_verb_writes_a_table_its_numbers_and_a_figure(capsys):
    def mixed(pair, method, seed):
        return opposite(pair, method, seed) if method in ("kd", "uhkd") else gain(pair, method, seed)

    a, b = suite("cheap", METHODS, PAIRS, gain), suite("dear", METHODS, PAIRS, mixed)
    assert cli.main(["proxy", "cheap", "dear"]) == 0
    stem = "tables/reference/cheap-proxy-dear"
    assert capsys.readouterr().out.split() == [f"{stem}.{suffix}" for suffix in ("md", "csv", "png")]
    found = proxy.compare(a, b)
    numbers = pd.read_csv(f"{stem}.csv")
    assert numbers.drop(columns="label").equals(found.cells.drop(columns="label")) and len(numbers) == 12
    rho = st.spearmanr(numbers["effect_a"], numbers["effect_b"]).statistic
    page = Path(f"{stem}.md").read_text(encoding="utf-8").replace("\\", "")
    assert (
        f"| cells | {rho:.2f} | [".replace("-", "−") in page and "4 methods with the same parameters on 3 pairs" in page
    )
    assert "| KD | +2.3 [" in page and "in random order agree wholly once in 24 cases" in page
    assert Path(f"{stem}.png").read_bytes()[:4] == b"\x89PNG"


def test_the_page_of_findings_says_what_the_suite_stands_for(capsys):
    suite("cheap", METHODS, PAIRS, gain, proxy_for="dear")
    write_text(Path("config/dear.yaml"), yaml.safe_dump(tiny(), sort_keys=False))
    assert cli.main(["findings", "cheap"]) == 0
    page = Path("docs/results-cheap.md").read_text(encoding="utf-8")
    assert "## Does it predict dear?\n\nNot known yet: dear has no committed results." in page and "![" not in page
    b = suite("dear", METHODS, PAIRS, opposite)
    capsys.readouterr()
    assert cli.main(["findings", "cheap"]) == 0
    files = [
        "docs/results-cheap.md",
        *(f"tables/reference/cheap-proxy-dear.{suffix}" for suffix in ("md", "csv", "png")),
    ]
    assert capsys.readouterr().out.split() == files and all(Path(file).exists() for file in files)
    page = Path("docs/results-cheap.md").read_text(encoding="utf-8").replace("\\", "")
    told = proxy.verdict_sentence(proxy.compare(Reference(load_suite("cheap")), b))
    assert page.count(told) == 2 and f"- {told}\n" in page, "in the abstract and in its section"
    assert "![Effects in cheap and in dear](../tables/reference/cheap-proxy-dear.png)" in page


def test_a_suite_is_no_proxy_for_itself_nor_for_a_path():
    for name in ("cheap", "../dear"):
        with pytest.raises(KdbenchError, match=r"proxy_for: .* cannot be a name"):
            check_suite(tiny(proxy_for=name), "cheap", "cheap.yaml")


def test_a_suite_without_a_reference_is_named(capsys):
    suite("cheap", METHODS, PAIRS, gain)
    write_text(Path("config/dear.yaml"), yaml.safe_dump(tiny(), sort_keys=False))
    assert cli.main(["proxy", "cheap", "dear"]) == 2
    assert (
        "results/reference/dear/runs.csv does not exist; make it first: kdbench reference dear"
        in capsys.readouterr().err
    )
    assert cli.main(["proxy", "cheap", "cheep"]) == 2
    assert "did you mean 'cheap'" in capsys.readouterr().err
