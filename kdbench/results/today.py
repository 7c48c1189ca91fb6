"""Does this result count today? One answer, for training, tables and figures alike.

A result counts under the key that the plan gives it today (config and versions of code), with the threads, data,
teacher and tuned weight of today. Anything else is stale, with the reason.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from kdbench.files import read_json, sha256_file
from kdbench.plan.blocks import tuning_pair
from kdbench.plan.jobs import Plan, Run
from kdbench.plan.paths import data_folder, tuned_file
from kdbench.plan.registry import method_info
from kdbench.plan.suite import typed
from kdbench.results.record import FINISHED, read_run, retrain_command
from kdbench.types import Block, KdbenchError, ModelSpec, Suite

BULKY = ("config", "diagnostics")
"""Parts of a record that only `kdbench show` prints: not kept, since a suite has thousands of runs."""


class Stale(KdbenchError):
    """A result that is missing or does not count today, as opposed to one that is damaged."""


class MissedGate(KdbenchError):
    """A teacher of another accuracy than its suite states."""


class Today:
    """What the results of a plan are worth now. Each file is read once: for one command, or one turn at a lock."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._data: dict[tuple[str, int], str | None] = {}
        self._keyed: dict[tuple[Path, str], dict[str, Any] | KdbenchError] = {}
        self._teachers: dict[tuple[str, int], dict[str, Any] | KdbenchError] = {}
        self._whole: dict[Path, bool] = {}
        self._choices: dict[tuple[str, str], dict[str, Any]] | None = None

    def data(self, name: str, seed: int) -> str | None:
        """Checksum of a seed's packed data; None where they are not packed. Raises KdbenchError for damaged ones."""
        suite = self.plan.suite
        place = name, suite.data[name].draw(seed).get("draw", 0)
        if place not in self._data:
            meta = data_folder(suite, name, seed) / "meta.json"
            self._data[place] = read_json(meta, "sha256")["sha256"] if meta.exists() else None
        return self._data[place]

    def keyed(self, run: Run) -> dict[str, Any]:
        """The run's record if it has today's key and threads, whatever it was trained with.

        Raises Stale with the reason, and KdbenchError for a damaged file.
        """
        place = run.result, run.key
        if place not in self._keyed:
            try:
                self._keyed[place] = _keyed(run)
            except KdbenchError as error:
                self._keyed[place] = error
        return _or_raise(self._keyed[place])

    def has(self, run: Run) -> dict[str, Any] | None:
        """`keyed` for readers that take what there is: None in place of an error."""
        try:
            return self.keyed(run)
        except KdbenchError:
            return None

    def record(self, run: Run, weights: bool = False) -> dict[str, Any]:
        """The run's record if it counts. weights: only if its weights are whole too.

        Raises Stale with the reason, and KdbenchError for a damaged file, which is never trained over in silence.
        """
        record = self.keyed(run)
        if record["hashes"].get("data") != self.data(run.data, run.seed):
            raise Stale("its result comes from other data")
        if run.pair.teacher:
            try:
                teacher = self.teacher(run.pair.teacher, run.seed)["hashes"]["weights"]
            except MissedGate as missed:
                raise Stale(str(missed)) from None
            except KdbenchError:
                teacher = None
            if teacher is None or record["hashes"].get("teacher") != teacher:
                raise Stale("its result comes from another teacher")
        if record.get("tuned") != self.weight(run):
            raise Stale("its weight is not the one that tuning chose")
        if weights and record["status"] == FINISHED and not self._are_whole(run, record):
            raise Stale("its weights are missing or damaged")
        return record

    def teacher(self, model: str, seed: int) -> dict[str, Any]:
        """Record of a trained teacher whose weights are whole. Raises KdbenchError that says what to run."""
        if (model, seed) not in self._teachers:
            try:
                self._teachers[model, seed] = self._teacher(model, seed)
            except KdbenchError as error:
                self._teachers[model, seed] = error
        return _or_raise(self._teachers[model, seed])

    def _teacher(self, model: str, seed: int) -> dict[str, Any]:
        run = self.plan.teacher(model, seed)
        try:
            record = self.record(run)
        except Stale as reason:
            command = f"run: kdbench teacher {typed(self.plan.suite)} {model}"
            raise KdbenchError(f"teacher {model} of seed {seed}: {reason}; {command}") from None
        if record["status"] != FINISHED:
            raise KdbenchError(f"teacher {model} of seed {seed}: {record['status']} ({record.get('reason')})")
        if not self._are_whole(run, record):
            weights = run.stem.with_suffix(".safetensors")
            raise KdbenchError(f"{weights} is missing or damaged; {retrain_command(run.result)}")
        check_gate(self.plan.suite.models[model], record)
        return record

    def _are_whole(self, run: Run, record: dict[str, Any]) -> bool:
        """Whether a run's weights are those of its record; hashed once."""
        weights = run.stem.with_suffix(".safetensors")
        if weights not in self._whole:
            self._whole[weights] = weights.exists() and sha256_file(weights) == record["hashes"].get("weights")
        return self._whole[weights]

    def weight(self, run: Run) -> dict[str, float] | None:
        """{parameter: value} that tuning chose for a tuned run; None for any other, and where nothing is chosen yet."""
        if not run.method.tuned_from:
            return None
        suite = self.plan.suite
        choice = self._chosen().get((tuning_pair(suite.tune, suite.models, run.pair).id, run.method.stream))
        if choice is None:
            return None
        chosen = {choice["parameter"]: choice["value"]}
        if "temperature" in choice:
            chosen[method_info(run.method.method).tune_temperature] = choice["temperature"]
        return chosen

    def choices(self, block: Block) -> list[dict[str, Any]]:
        """What tuning chose for the tuned rows of a block."""
        return choices_for(self.plan.suite, block, self._chosen().values())

    def _chosen(self) -> dict[tuple[str, str], dict[str, Any]]:
        if self._choices is None:
            path = tuned_file(self.plan.suite)
            found = read_json(path, "choices")["choices"] if self.plan.suite.tune and path.exists() else []
            self._choices = {(choice["pair"], choice["method"]): choice for choice in found}
        return self._choices


def check_gate(spec: ModelSpec, record: dict[str, Any]) -> None:
    """Raises MissedGate where a teacher that finished has not the test accuracy that its suite states, within the
    tolerance."""
    if spec.accuracy is None or record["status"] != FINISHED:
        return
    found = record["accuracy"]["test"]
    if abs(found - spec.accuracy) > spec.tolerance + 1e-9:  # 8,926 of 10,000 are not quite 89.26 %
        one = f"teacher {spec.name} of seed {record['seed']}" if spec.recipe else f"teacher {spec.name}"
        raise MissedGate(
            f"{one} has a test accuracy of {found:.2f} %, but the suite states {spec.accuracy:.2f} % "
            f"within {spec.tolerance:g}: no student learns from it. Look at its weights, at size, normalisation and "
            f"order of classes of data {spec.data}, or state another accuracy"
        )


def choices_for(suite: Suite, block: Block, choices: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those of all choices of tuning that tuned rows of a block use."""
    twins = [m.stream for m in block.methods if m.tuned_from]
    pairs = [tuning_pair(suite.tune, suite.models, p).id for p in block.pairs] if twins else []
    return [choice for choice in choices if choice["pair"] in pairs and choice["method"] in twins]


def _keyed(run: Run) -> dict[str, Any]:
    if not run.result.exists():
        raise Stale("not trained yet")
    record = read_run(run.result)
    if record["key"] != run.key or record["hardware"]["threads"] != run.threads:
        if "code_sha256" in record.get("config", {}):
            raise Stale("its result was trained before keys went by version (kdbench 0.1, November 2026)")
        raise Stale("its result comes from another config or version of the code")
    return {key: value for key, value in record.items() if key not in BULKY}


def _or_raise(found: dict[str, Any] | KdbenchError) -> dict[str, Any]:
    if isinstance(found, KdbenchError):
        raise found
    return found
