"""Files are whole or not there, and damage is seen."""

from __future__ import annotations

import os
import stat
import subprocess

import pytest
import torch

from kdbench import checkpoint
from kdbench.files import atomic, read_json, write_json, write_text
from kdbench.types import KdbenchError

STATE = {"step": 3, "members": {"kd": {"rng": torch.get_rng_state(), "w": torch.arange(100.0), "terms": ["ce"]}}}


def test_a_state_comes_back_as_it_was(tmp_path):
    checkpoint.save(tmp_path / "c", STATE)
    back = checkpoint.load(tmp_path / "c")
    assert back["step"] == 3 and back["members"]["kd"]["terms"] == ["ce"]
    assert torch.equal(back["members"]["kd"]["w"], STATE["members"]["kd"]["w"])
    assert torch.equal(back["members"]["kd"]["rng"], STATE["members"]["kd"]["rng"])
    assert checkpoint.load(tmp_path / "none") is None


def test_cut_or_flipped_is_never_used(tmp_path, capsys):
    path = tmp_path / "c"
    checkpoint.save(path, STATE)
    whole = path.read_bytes()
    for length in [0, 1, 20, 60, 90, len(whole) // 2, len(whole) - 1]:
        path.write_bytes(whole[:length])
        assert checkpoint.load(path) is None
        assert "damaged and not used" in capsys.readouterr().err
    for place in range(0, len(whole), len(whole) // 60):
        damaged = bytearray(whole)
        damaged[place] ^= 8
        path.write_bytes(damaged)
        assert checkpoint.load(path) is None
    path.write_bytes(whole + b"x")
    assert checkpoint.load(path) is None


def test_the_one_before_serves_when_the_newest_is_damaged(tmp_path, capsys):
    path = tmp_path / "c"
    checkpoint.save(path, {"step": 1})
    checkpoint.save(path, {"step": 2})
    assert checkpoint.load(path) == {"step": 2}
    path.write_bytes(path.read_bytes()[:-3])
    assert checkpoint.load(path) == {"step": 1}


class Planted:
    def __reduce__(self):
        return os.mkdir, ("planted",)


def test_a_planted_pickle_runs_nothing(tmp_path, monkeypatch):
    import hashlib
    import io

    monkeypatch.chdir(tmp_path)
    buffer = io.BytesIO()
    torch.save(Planted(), buffer)
    payload = buffer.getvalue()
    digest = hashlib.sha256(payload).hexdigest().encode()
    (tmp_path / "c").write_bytes(b"kdbench checkpoint 1\n" + digest + b"\n" + payload)
    with pytest.raises(KdbenchError):
        checkpoint.load(tmp_path / "c")
    assert not (tmp_path / "planted").exists()


def test_an_interrupted_write_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "r.json"
    write_json(path, {"a": 1})
    with pytest.raises(RuntimeError), atomic(path) as file:
        file.write(b"half")
        raise RuntimeError
    assert read_json(path) == {"a": 1} and os.listdir(tmp_path) == ["r.json"]


def test_results_are_readable_by_the_group_as_the_umask_says(tmp_path):
    before = os.umask(0o027)
    try:
        write_json(tmp_path / "r.json", {})
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "r.json").stat().st_mode) == 0o640


def test_a_folder_that_is_a_file_is_told(tmp_path):
    (tmp_path / "results").write_text("")
    with pytest.raises(KdbenchError, match=r"cannot write .*results/r\.json.*nothing was changed"):
        write_json(tmp_path / "results" / "r.json", {})


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
def test_a_full_disk_is_told_and_costs_nothing(tmp_path):
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", tmp_path], capture_output=True).returncode:
        pytest.skip("no tmpfs can be mounted here")
    try:
        write_text(tmp_path / "old", "kept")
        with pytest.raises(KdbenchError, match="the disk is full; nothing was changed"):
            write_text(tmp_path / "old", "x" * 200_000)
        assert (tmp_path / "old").read_text() == "kept" and os.listdir(tmp_path) == ["old"]
    finally:
        subprocess.run(["umount", tmp_path], check=True)


@pytest.mark.parametrize("text", ["", "{", "[1", '{"a": 1', "\xff", "[1]", "1"])
def test_damaged_json_is_told(tmp_path, text):
    (tmp_path / "r.json").write_text(text, encoding="latin-1")
    with pytest.raises(KdbenchError, match=r"r\.json is damaged .* delete it and run again"):
        read_json(tmp_path / "r.json")


def test_a_number_changed_by_hand_and_a_key_that_is_not_there_are_told(tmp_path):
    path = tmp_path / "r.json"
    write_json(path, {"a": 1, "pairs": {2: (3, 4)}})
    assert read_json(path, "a") == {"a": 1, "pairs": {"2": [3, 4]}}
    with pytest.raises(KdbenchError, match=r"r\.json is damaged \(it has no b\)"):
        read_json(path, "a", "b")
    path.write_text(path.read_text().replace("3,", "5,"))
    with pytest.raises(KdbenchError, match="its checksum is another"):
        read_json(path)


def test_nan_never_gets_into_a_file(tmp_path):
    with pytest.raises(ValueError):
        write_json(tmp_path / "r.json", {"a": float("nan")})
    assert not (tmp_path / "r.json").exists()
