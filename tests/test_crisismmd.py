"""CrisisMMD from small tables and images of its form: what is read, what is refused, and a suite that trains on it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from conftest import REPOSITORY
from PIL import Image

from kdbench.data.packed import load_packed
from kdbench.data.prepare import prepare_data
from kdbench.data.raw import SourceMissing
from kdbench.data.sources import crisismmd
from kdbench.data.tokens import PADDING, UNKNOWN
from kdbench.plan.jobs import Plan, make_plan
from kdbench.plan.registry import method_names
from kdbench.plan.suite import check_suite, load_suite
from kdbench.results.today import Today
from kdbench.run.data import run_data
from kdbench.run.outputs import run_table
from kdbench.run.training import run_training
from kdbench.terminal import published
from kdbench.train.batches import Batches
from kdbench.types import DataSpec, KdbenchError, Recipe

HEADER = [
    "event_name",
    "tweet_id",
    "image_id",
    "tweet_text",
    "image",
    "label",
    "label_text",
    "label_image",
    "label_text_image",
]
LABELS = {
    "humanitarian": (*crisismmd.CLASSES["humanitarian"], *crisismmd.MERGED),
    "informative": crisismmd.CLASSES["informative"],
}
COUNTS = {"train": 24, "dev": 8, "test": 8}


def write_crisismmd(folder: Path, counts: dict[str, int], task: str = "humanitarian") -> dict[str, list[list[str]]]:
    """A small folder of its form, of which every table has all labels; the values of each line of each table."""
    (folder / crisismmd.TABLES).mkdir(parents=True, exist_ok=True)
    rng, tables = np.random.default_rng(0), {}
    for part, count in counts.items():
        lines = []
        for i in range(count):
            label = LABELS[task][i % len(LABELS[task])]
            tweet = f"9{part}{i // 2}"  # two images a tweet
            image = f"data_image/hurricane_maria/20_9_2017/{tweet}_{i % 2}.jpg"
            text = f"RT @user{i}: The #{label} of {i} &amp; more https://t.co/{i} word{i % 5}"
            lines.append(["hurricane_maria", tweet, f"{tweet}_{i % 2}", text, image, label, label, label, "Positive"])
            (folder / image).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)).save(folder / image)
        write_table(folder, part, lines, task)
        tables[part] = lines
    return tables


def write_table(folder: Path, part: str, lines: list[list[str]], task: str = "humanitarian") -> Path:
    path = folder / crisismmd.TABLES / f"task_{task}_text_img_agreed_lab_{part}.tsv"
    path.write_text("".join("\t".join(line) + "\n" for line in [HEADER, *lines]), encoding="utf-8")
    return path


@pytest.fixture
def data(tmp_path):
    """A folder of the user, and the lines of its tables."""
    return tmp_path, write_crisismmd(tmp_path / "CrisisMMD_v2.0", COUNTS)


def built(data_dir: Path, **arguments):
    return crisismmd.build(**{"size": 8, "length": 12, "data_dir": data_dir} | arguments)


# --------------------------------------------------------------------------------------------------------- what is read


def test_a_sample_is_one_line_in_both_modalities(data):
    folder, tables = data
    raw = built(folder)
    place = folder / "CrisisMMD_v2.0"
    for split, part in (("train", "train"), ("val", "dev"), ("test", "test")):
        lines = {line[4]: line for line in tables[part]}
        assert sorted(raw.names[split]) == sorted(lines), "each line once"
        for i, name in enumerate(raw.names[split]):
            label = crisismmd.MERGED.get(lines[name][5], lines[name][5])
            assert raw.class_names[raw.labels[split][i]] == label
            with Image.open(place / name) as picture:
                square = picture.crop((2, 0, 14, 12)).resize((8, 8), Image.Resampling.BICUBIC)
            assert np.array_equal(raw.modalities["image"][split][i], np.asarray(square))
        text = raw.modalities["text"][split]
        assert text.dtype == np.int32 and text.shape == (len(lines), 1, 12, 1)
    assert raw.class_names == list(crisismmd.CLASSES["humanitarian"])


def test_words_of_test_texts_alone_are_unknown(data):
    folder, tables = data
    tables["test"][0][3] = "neverseen " * 3
    write_table(folder / "CrisisMMD_v2.0", "test", tables["test"])
    raw = built(folder)
    (place,) = (i for i, name in enumerate(raw.names["test"]) if name == tables["test"][0][4])
    assert raw.modalities["text"]["test"][place, 0, :4, 0].tolist() == [UNKNOWN] * 3 + [PADDING]
    assert not (raw.modalities["text"]["train"] == UNKNOWN).any()
    assert raw.vocabularies["text"] == raw.modalities["text"]["train"].max() + 1


def test_a_batch_has_image_text_and_label_of_the_same_lines(data, tmp_path):
    pack = prepare_data(DataSpec("d", "crisismmd", {"size": 8, "length": 12}), tmp_path / "pack", data[0])
    raw, batches = built(data[0]), Batches(pack, {"image", "text"}, torch.device("cpu"))
    recipe = Recipe("r", lr=0.1, steps=1, batch_size=3, crop=2, flip=True, erasing=0.5)
    chosen = [7, 2, 19]
    inputs, target = batches.train(torch.tensor(chosen), recipe, 0, 0)
    assert target.tolist() == raw.labels["train"][chosen].tolist()
    wanted = raw.modalities["text"]["train"][chosen].transpose(0, 3, 1, 2)
    assert inputs["text"].dtype == torch.int32 and np.array_equal(inputs["text"], wanted)
    assert inputs["image"].shape == (3, 3, 8, 8) and inputs["image"].dtype == torch.float32
    wanted = raw.modalities["text"]["test"].transpose(0, 3, 1, 2)
    assert np.array_equal(torch.cat(list(batches.evaluation("text", "test", 3))), wanted)


def test_the_other_task(tmp_path):
    write_crisismmd(tmp_path / "mine", COUNTS, "informative")
    raw = built(tmp_path, folder="mine", task="informative")
    assert raw.class_names == ["informative", "not_informative"] and np.bincount(raw.labels["test"]).tolist() == [4, 4]


def test_packed_and_read_again(data, tmp_path):
    folder, _ = data
    spec = DataSpec("d", "crisismmd", {"size": 8, "length": 12})
    pack = prepare_data(spec, tmp_path / "pack", folder)
    raw = built(folder)
    facts = pack.meta["modalities"]["text"]
    assert facts == {"kind": "tokens", "shape": [1, 12, raw.vocabularies["text"]]}
    loaded = load_packed(tmp_path / "pack", verify=True)
    assert np.array_equal(loaded.array("text", "val"), raw.modalities["text"]["val"])
    assert prepare_data(spec, tmp_path / "pack", folder).meta == pack.meta, "not packed twice"


# ------------------------------------------------------------------------------------------------------ what is refused


def test_files_that_the_folder_lacks_are_listed(data):
    folder, tables = data
    place = folder / "CrisisMMD_v2.0"
    images = [line[4] for line in tables["train"]]
    for name in images[:12]:
        (place / name).unlink()
    for read in (lambda: built(folder), lambda: crisismmd.source_files({}, folder)):
        with pytest.raises(KdbenchError, match="lacks 12 files") as error:
            read()
        assert all(name in str(error.value) for name in images[:10]) and images[10] not in str(error.value)
        assert "and 2 more" in str(error.value)
    (place / crisismmd.TABLES / "task_humanitarian_text_img_agreed_lab_dev.tsv").unlink()
    with pytest.raises(KdbenchError, match=r"lacks 1 file: crisismmd_datasplit_agreed_label/task_\w+_dev.tsv$"):
        built(folder)
    with pytest.raises(SourceMissing, match=r"no folder absent in .*; `kdbench show data` says what it holds"):
        built(folder, folder="absent")


@pytest.mark.parametrize(
    ("column", "value", "told"),
    [
        (5, "vehicle_damge", "line 4: unknown label 'vehicle_damge'"),
        (3, "a\tb", "line 4: 10 columns, and the first line has 9"),
        (4, "../elsewhere.jpg", "line 4: the image ../elsewhere.jpg is not in the folder"),
    ],
)
def test_a_faulty_line_is_named(data, column, value, told):
    folder, tables = data
    tables["dev"][2][column] = value
    path = write_table(folder / "CrisisMMD_v2.0", "dev", tables["dev"])
    with pytest.raises(KdbenchError, match=told) as error:
        built(folder)
    assert str(path) in str(error.value)


def test_a_table_off_the_form_is_named(data):
    folder, _ = data
    path = folder / "CrisisMMD_v2.0" / crisismmd.TABLES / "task_humanitarian_text_img_agreed_lab_dev.tsv"
    text = path.read_text()
    for content, told in (
        (text.replace("tweet_text", "text", 1), "no column tweet_text; its first line names event_name"),
        (text.split("\n")[0] + "\n", "no line but its first"),
    ):
        path.write_text(content)
        with pytest.raises(KdbenchError, match=told):
            built(folder)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(KdbenchError, match="is not UTF-8 text"):
        built(folder)


def test_damaged_images_are_named(data):
    folder, tables = data
    name = tables["test"][3][4]
    (folder / "CrisisMMD_v2.0" / name).write_bytes(b"no image")
    with pytest.raises(KdbenchError, match=f"1 image cannot be used: .*{name}"):
        built(folder)


@pytest.mark.parametrize("argument", [{"size": 7}, {"length": 0}, {"vocabulary": 0}])
def test_arguments_out_of_range(data, argument):
    with pytest.raises(KdbenchError, match=f"{next(iter(argument))} is .*; the smallest is"):
        built(data[0], **argument)


# ------------------------------------------------------------------------------------------------------------ the suite


def finished(
    tmp_path: Path, monkeypatch, pairs: list[str], methods: list[str]
) -> tuple[Plan, dict[tuple[str, str], dict]]:
    """The suite after two steps on small images, with a small network for these: its plan, and the record of each
    (pair, method)."""
    write_crisismmd(tmp_path / "CrisisMMD_v2.0", COUNTS)
    monkeypatch.setenv("KDBENCH_DATA", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    tree = yaml.safe_load((REPOSITORY / "config/fdcmkd-crisismmd.yaml").read_text(encoding="utf-8"))
    tree |= {"seeds": [0], "data": {"crisismmd": {"source": "crisismmd", "size": 32, "length": 12}}}
    for recipe in tree["recipes"].values():
        recipe |= {"epochs": 1, "batch_size": COUNTS["train"] // 2}
    small = {"block": "BasicBlock", "layers": [1, 1, 1, 1], "channels": [4, 8, 8, 16]}
    tree["models"]["image"] |= {"timm": "ResNet", "stem": "small", "args": small}
    tree["blocks"]["crisismmd"] |= {"pairs": pairs, "methods": methods}
    plan = make_plan(check_suite(tree, "fdcmkd-crisismmd", "fdcmkd-crisismmd"))
    run_data(plan, plan.of("data")[0])
    for job in (*plan.of("teacher"), *plan.of("cohort")):
        run_training(plan, job, threads=1)
    today = Today(plan)
    return plan, {(run.pair.id, run.method.id): today.has(run) for job in plan.of("cohort") for run in job.runs}


@pytest.mark.slow
def test_the_suite_runs_from_files_to_a_table_beside_the_papers(tmp_path, monkeypatch):
    plan, records = finished(tmp_path, monkeypatch, ["text -> image"], ["kd", "fdcmkd"])
    assert {record["status"] for record in records.values()} == {"finished"}
    run_table(plan)
    assert "one label, in the split of Ofli, Alam, Imran (2020)" in Path("tables/fdcmkd-crisismmd.md").read_text()
    values = published.values(plan.suite)
    ours = published.runs(plan)
    judged = published.judge(ours, values.assign(reason=published.reasons(plan, ours, values)))
    shown = judged[judged["value"].notna()]
    assert len(shown) == 3 and set(shown["verdict"]) == {"not comparable"}
    assert shown["reason"].str.startswith("recipe, task and encoders of the paper are not known").all()


def test_the_published_table_is_whole():
    suite = load_suite("fdcmkd-crisismmd")
    table = published.values(suite).set_index(["student", "method"])["value"]
    assert set(table.index) == {(s, m.id) for s in ("image", "text") for m in suite.blocks[0].methods}
    assert (table["text", "scratch"], table["text", "fdcmkd"]) == (77.4, 79.1)
    assert (table["image", "scratch"], table["image", "fdcmkd"]) == (70.2, 72.7)


@pytest.mark.slow
def test_every_method_trains_in_both_directions_or_says_why_not(tmp_path, monkeypatch):
    """Methods that go into a teacher by timm's names cannot have one that reads tokens; UCMKD takes equal widths."""
    _, records = finished(tmp_path, monkeypatch, ["text -> image", "image -> text"], method_names())
    refused = {run: record["reason"] for run, record in records.items() if record["status"] != "finished"}
    said = {"fbt": "TextTransformer", "pat": "TextTransformer", "ucmkd": "wide"}
    assert set(refused) == {("text--image", method) for method in said} | {("image--text", "ucmkd")}
    assert all(said[method] in reason for (_, method), reason in refused.items())
