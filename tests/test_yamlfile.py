"""What a YAML file says is what the person who wrote it meant, or it is refused with the line and what to write."""

from __future__ import annotations

import pytest
import yaml

from kdbench.plan import yamlfile
from kdbench.types import KdbenchError


@pytest.fixture
def read(tmp_path):
    path = tmp_path / "suite.yaml"

    def read(text: str):
        path.write_text(text, encoding="utf-8")
        return yamlfile.read(path)

    return read


def refusal(read, text: str) -> str:
    with pytest.raises(KdbenchError, match=r"suite\.yaml: ") as error:
        read(text)
    assert "\n" not in str(error.value)
    return str(error.value).partition("suite.yaml: ")[2]


DECIMAL = {"0": 0, "-0": 0, "10": 10, "+5": 5, "-3": -3, "0.1": 0.1, "-1.5E+3": -1500.0, "1.": 1.0, "-.5": -0.5}
DECIMAL |= dict.fromkeys(["5e-3", "5E-3", "+.5e-2", "5.e-3", "50.0e-4"], 0.005) | {"1e5": 1e5, "0e0": 0.0}


@pytest.mark.parametrize(("text", "value"), DECIMAL.items())
def test_a_number_is_in_decimal_digits(read, text, value):
    found = read(f"a: {text}\nb: [{text}]\nc: {{d: {text}}}\ne: '{text}'\nf: \"{text}\"\n{text}: g")
    assert found == {"a": value, "b": [value], "c": {"d": value}, "e": text, "f": text, text: "g"}
    assert type(found["a"]) is type(value)


OTHER_NOTATIONS = {
    "010": "8 or 10",
    "0_10": "8 or 10",
    "-010": "-8 or -10",
    "08": "8",
    "0o17": "15",
    "0x10": "16",
    "0b11": "3",
    "1_000": "1000",
    "1:30": "90",
    "-1:30": "-90",
    "190:20:30": "685230",
    "1:30.5": "90.5",
    "1_000.5": "1000.5",
    "010.5": "10.5",
    "01e3": "1000.0",
} | {
    text: "true" if text.lower() in ("yes", "on", "y") else "false"
    for text in ("yes", "Yes", "YES", "no", "No", "NO", "on", "On", "ON", "off", "Off", "OFF", "y", "Y", "n", "N")
}


@pytest.mark.parametrize(("text", "meant"), OTHER_NOTATIONS.items())
def test_another_notation_of_a_number_or_boolean_is_refused_as_a_value_and_is_text_as_a_key(read, text, meant):
    told = f'line 2: {text} can be misread; write {meant}, or "{text}" in quotes for text'
    for value in (text, f"[1, {text}]", f"{{b: {text}}}"):
        assert refusal(read, f"x: 1\na: {value}") == told
    assert refusal(read, f"x: 1\n- {text}".replace("x: 1", "- 1")) == told
    assert read(f'{text}: "{text}"') == {text: text}


def test_an_explicit_tag_does_not_let_another_notation_in(read):
    assert refusal(read, "a: !!int 010").startswith("line 1: 010 can be misread")
    assert refusal(read, "a: !!float 1:30").startswith("line 1: 1:30 can be misread")
    assert refusal(read, "a: !!bool yes").startswith("line 1: yes can be misread")
    assert read("a: !!float 3\nb: !!str 010") == {"a": 3.0, "b": "010"}


def test_dates_are_text_in_quotes(read):
    for text in ("2024-01-01", "2001-12-14t21:59:43.10-05:00"):
        assert refusal(read, f"title: {text}") == f'line 1: {text} can be misread; write "{text}" in quotes for text'
        assert read(f"title: '{text}'") == {"title": text}


def test_plain_words_and_booleans_stay_what_they_are(read):
    for text in ("none", "kd", "1.2.3", "a -> b", "yes please", "0,5", "12e", "0x", "1:", "v10", "10%", "on-t"):
        assert read(f"a: {text}" if text != "1:" else "a: '1:'") == {"a": text}
    assert read("a: [true, True, TRUE, false, null, ~]") == {"a": [True, True, True, False, None, None]}


def test_keys_are_text_whatever_they_look_like(read):
    keys = ["on", "no", "null", "~", "true", "010", "18", "1.5", "1:30", "2024-01-01", "0x10"]
    assert list(read("\n".join(f"{key}: 1" for key in keys))) == keys


# ---------------------------------------------------------------------------------------------------- keys given twice


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a: 1\nb: 2\na: 3", "line 3: 'a' is given twice, first on line 1"),
        ("x:\n  a: 1\n\n  # again\n  a: 1", "line 5: 'a' is given twice, first on line 2"),
        ("x: [{a: 1}, {b: 1, a: 2,\n b: 3}]", "line 2: 'b' is given twice, first on line 1"),
        ("a: 1\n'a': 2", "line 2: 'a' is given twice, first on line 1"),
        ("1: a\n'1': b", "line 2: '1' is given twice, first on line 1"),
        (
            "a: &a {x: 1}\nb:\n  <<: *a\n  <<: *a",
            "line 4: '<<' is given twice, first on line 3; to merge several, write",
        ),
        ("? [1]\n: 2", "line 1: expected text as a key, got a sequence"),
    ],
)
def test_a_repeated_key_is_told_with_both_lines(read, text, told):
    assert refusal(read, text).startswith(told)


# ---------------------------------------------------------------------------------------------------------- merge keys


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("<<: *b\nlr: 3", {"lr": 3, "steps": 2}),
        ("lr: 3\n<<: *b", {"lr": 3, "steps": 2}),
        ("<<: [*b, *c]", {"lr": 1, "steps": 2, "crop": 4}),
        ("<<: [*c, *b]\ncrop: 0", {"lr": 9, "steps": 2, "crop": 0}),
        ("<<: *d", {"lr": 7, "steps": 2}),
        ("<<: {lr: 5}", {"lr": 5}),
        ("<<: *e", {}),
    ],
)
def test_merge_keys_are_taken_in_and_explicit_keys_override(read, text, wanted):
    bases = "b: &b {lr: 1, steps: 2}\nc: &c {lr: 9, crop: 4}\nd: &d {<<: *b, lr: 7}\ne: &e {}\n"
    found = read(bases + "x:\n  " + text.replace("\n", "\n  ") + "\ny: {<<: *d}\n")
    assert found["x"] == wanted
    assert (found["b"], found["c"]) == ({"lr": 1, "steps": 2}, {"lr": 9, "crop": 4}), "the merged are as they were"
    assert found["d"] == found["y"] == {"lr": 7, "steps": 2}
    assert read("'<<': 3") == {"<<": 3}, "in quotes it is a name"


@pytest.mark.parametrize("text", ["a: {<<: 3}", "a: {<<: [3]}", "a: &a {<<: *a}", "a: &a {b: {<<: *a}}", "a: {<<: }"])
def test_what_cannot_be_merged_is_told(read, text):
    assert refusal(read, text) == "line 1: << merges a mapping that stands above it, or a list of such"


def test_merges_of_merges_do_not_unfold_without_end(read):
    lines = ["a0: &a0 {x: 1}"] + [
        f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 9)}], y{i}: 1}}" for i in range(1, 30)
    ]
    assert len(read("\n".join(lines))["a29"]) == 30


def test_what_safe_dump_writes_is_read_back(read):
    """Names that look like numbers or booleans among it: it puts them in quotes."""
    tree = {"on": "no", "010": "010", "18": 18, "a": [True, None, 5e-3, 1e30, "yes", "1:30", "1_000", "null", "0x10"]}
    assert read(yaml.safe_dump(tree, sort_keys=False)) == tree
