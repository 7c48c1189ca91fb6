"""UHKD: its controls against each other, normalisation, readings, diagnostics, and refusals."""

import itertools
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from builders import BATCH, CLASSES, SIDES, build, signals
from conftest import run_jobs
from test_engine import interrupted, plan_for

from kdbench.conformance import check
from kdbench.conformance.networks import MODELS
from kdbench.methods import uhkd
from kdbench.plan import registry
from kdbench.results.record import read_run
from kdbench.types import KdbenchError, PairShapes, Side

ONE_PAIR = [(MODELS["teacher-cnn"], MODELS["student-vit"])]


@pytest.mark.parametrize(("student", "teacher"), [("cnn", "cnn"), ("cnn", "vit"), ("mlp", "cnn"), ("sequence", "cnn")])
def test_full_band_complex_mse_is_half_the_spatial_mse(student, teacher):
    ours, theirs = signals(SIDES[student]), signals(SIDES[teacher], seed=1)
    target = torch.zeros(BATCH, dtype=torch.long)
    spatial, spectral = (
        build("uhkd", {"control": control, "normalisation": "off"}, student, teacher)(ours, theirs, target, 0.0)
        for control in ("C0", "C1")
    )
    for stage in ("stage1", "stage2", "stage3", "stage4"):
        assert spectral[stage].item() == pytest.approx(spatial[stage].item() / 2, rel=1e-5)


def test_standardised_loss_of_independent_signals_is_two():
    shape = (8, 8, 8)
    side = Side("cnn", (shape,) * 4, prefix=0, pooled=8, pooled_preact=8)
    distiller = uhkd.Method(uhkd.Params(), PairShapes(side, side, CLASSES, 100))
    distiller.prepare(signals(side, batch=200, seed=seed) for seed in range(10, 14))
    terms = distiller(
        signals(side, batch=200), signals(side, batch=200, seed=1), torch.zeros(200, dtype=torch.long), 0.0
    )
    assert 4 * terms["stage1"].item() == pytest.approx(2, abs=0.1)


def test_teacher_statistics_are_those_of_the_whole_training_set():
    distiller = build("uhkd", {}, "cnn", "vit")
    level = distiller.levels["1-1"]
    features = torch.cat([level.represent(signals(SIDES["vit"], seed=seed).stages[0]) for seed in range(2, 5)])
    torch.testing.assert_close(level.teacher_mean, features.mean(0))
    torch.testing.assert_close(level.teacher_variance, features.var(0, correction=0))
    before = level.teacher_mean.clone()
    distiller(signals(SIDES["cnn"]), signals(SIDES["vit"], seed=1), torch.zeros(BATCH, dtype=torch.long), 0.0)
    assert torch.equal(level.teacher_mean, before)


def test_frozen_batch_norm_standardises_teacher_maps_per_channel():
    distiller = build("uhkd", {"ftm": "batch_norm", "normalisation": "layer"}, "cnn", "vit")
    level = distiller.levels["1-1"]
    train = torch.cat([signals(SIDES["vit"], seed=seed).stages[0] for seed in range(2, 5)])
    standardised = F.batch_norm(train, None, None, training=True)
    torch.testing.assert_close(level.represent_teacher(train), level.represent(standardised), rtol=1e-4, atol=1e-4)


def test_channel_normalisation_follows_the_teachers_running_std():
    level = build("uhkd", {"normalisation": "channel"}, "cnn", "vit").levels["1-1"]
    first, second = (torch.randn(BATCH, 16, 25) * scale for scale in (1.0, 3.0))
    student = torch.randn(BATCH, 16, 25)
    spread = [x.std(dim=(0, 2), correction=0)[:, None] for x in (first, second)]
    torch.testing.assert_close(level.normalise(student, first)[1], first / spread[0], rtol=1e-4, atol=1e-4)
    running = 0.9 * spread[0] + 0.1 * spread[1]
    ours, theirs = level.normalise(student, second)
    torch.testing.assert_close(theirs, second / running, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(ours, student / running, rtol=1e-4, atol=1e-4)


def test_forgotten_statistics_are_noticed():
    distiller = uhkd.Method(uhkd.Params(), PairShapes(SIDES["cnn"], SIDES["vit"], CLASSES, 100))
    terms = distiller(signals(SIDES["cnn"]), signals(SIDES["vit"]), torch.zeros(BATCH, dtype=torch.long), 0.0)
    assert terms["stage1"].isnan()


def test_phase_scrambling_keeps_amplitudes_and_means():
    maps = torch.randn(3, 4, 8, 7, dtype=torch.float64)
    scrambled = uhkd.scramble_phase(maps)
    torch.testing.assert_close(torch.fft.fft2(scrambled).abs(), torch.fft.fft2(maps).abs())
    torch.testing.assert_close(scrambled.mean((-2, -1)), maps.mean((-2, -1)))
    assert F.cosine_similarity(scrambled.flatten(), maps.flatten(), dim=0).abs() < 0.3


def test_amplitude_does_not_see_a_circular_shift_and_complex_does():
    maps = torch.randn(2, 24, 8, 8)
    for changes, blind in (
        ({"control": "C3"}, True),
        ({}, True),
        ({"control": "C2"}, False),
        ({"control": "C0"}, False),
    ):
        level = build("uhkd", changes, "cnn", "cnn").levels["2-2"]
        same = torch.allclose(level.represent(maps), level.represent(maps.roll((3, 2), (2, 3))), atol=1e-4)
        assert same is blind, changes


def test_dc_alone_is_the_mean_over_space():
    level = build("uhkd", {"control": "C6"}, "cnn", "cnn").levels["2-2"]
    maps = torch.randn(2, 24, 8, 8)
    torch.testing.assert_close(level.represent(maps)[..., 0], torch.log1p(8 * maps.mean((2, 3)).abs()))


def test_spectral_crop_is_the_same_content_on_two_grids():
    level = build("uhkd", {"representation": "complex", "norm": "forward"}, "cnn", "cnn").levels["2-2"]
    assert level.size == (5, 5)

    def wave(cells):
        angle = 2 * torch.pi * torch.arange(cells) / cells
        return (torch.cos(2 * angle)[:, None] * torch.cos(angle + 0.3)[None, :]).expand(1, 3, -1, -1)

    torch.testing.assert_close(level.represent(wave(8)), level.represent(wave(16)), rtol=0, atol=1e-6)


def test_ramp_and_weights():
    def terms(progress, **changes):
        distiller = build("uhkd", changes, "cnn", "cnn")
        return distiller(
            signals(SIDES["cnn"]), signals(SIDES["cnn"], seed=1), torch.zeros(BATCH, dtype=torch.long), progress
        )

    full = terms(0.0)
    assert terms(0.1, ramp=0.2)["stage1"].item() == pytest.approx(full["stage1"].item() / 2)
    assert terms(0.6, ramp=0.2)["stage1"].item() == pytest.approx(full["stage1"].item())
    assert terms(0.0, beta=3.0)["stage4"].item() == pytest.approx(3 * full["stage4"].item())
    assert set(terms(0.0, alpha=0.0)) == set(full) - {"kd"}
    assert set(terms(0.0, levels="last_two")) == {"ce", "kd", "stage3", "stage4"}


@pytest.mark.parametrize("choice", list(itertools.product(*uhkd.READINGS.values())), ids="-".join)
def test_all_eight_readings_run(choice):
    reading = dict(zip(uhkd.READINGS, choice, strict=True))
    assert check("uhkd", reading, ONE_PAIR, thorough=False) == []


def test_readings_are_choices_of_the_defaults_and_their_fallbacks():
    info = registry.method_info("uhkd")
    for name, values in uhkd.READINGS.items():
        assert all(info.params[name].check(value, name) == value for value in values)
        assert info.params[name].default == values[0]
    assert len(list(itertools.product(*uhkd.READINGS.values()))) == 8


def first_step(changes, shown=None):
    """A distiller after its first step, and the terms of that."""
    distiller = build("uhkd", changes, "cnn", "vit")
    shown = shown or signals(SIDES["vit"], seed=1)
    return distiller, distiller(signals(SIDES["cnn"]), shown, torch.arange(BATCH) % CLASSES, 0.0)


def test_diagnostics_are_those_of_the_first_step():
    distiller, terms = first_step({"beta": 3.0})
    found = distiller.diagnostics()
    kinds = ("loss", "dc_share", "shuffled_loss")
    assert set(found) == {f"{kind}_{stage}-{stage}" for stage in (1, 2, 3, 4) for kind in kinds}
    for stage in (1, 2, 3, 4):
        assert 3 / 4 * found[f"loss_{stage}-{stage}"] == pytest.approx(terms[f"stage{stage}"].item())
    assert all(0 < found[f"dc_share_{stage}-{stage}"] < 1 for stage in (1, 2, 3))
    assert found["dc_share_4-4"] == 1
    distiller(signals(SIDES["cnn"], seed=8), signals(SIDES["vit"], seed=9), torch.arange(BATCH) % CLASSES, 0.1)
    assert distiller.diagnostics() == found
    again = build("uhkd", {"beta": 3.0}, "cnn", "vit")
    assert again.diagnostics() == {}
    again.load_state_dict(distiller.state_dict())
    assert again.diagnostics() == found


def test_the_shuffled_loss_is_that_of_the_sample_half_a_batch_away():
    theirs = signals(SIDES["vit"], seed=1)
    rolled = replace(theirs, stages=tuple(stage.roll(BATCH // 2, 0) for stage in theirs.stages))
    straight, shuffled = (first_step({}, shown)[0].diagnostics() for shown in (theirs, rolled))
    for stage in (1, 2, 3, 4):
        expected = shuffled[f"loss_{stage}-{stage}"]
        assert straight[f"shuffled_loss_{stage}-{stage}"] == pytest.approx(expected)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"representation": "complex"},
        {"control": "C3"},
        {"control": "C6"},
        {"transform": "rfft2"},
        {"tokens": "sequence"},
        {"norm": "forward"},
        {"refine": "gaussian"},
    ],
)
def test_dc_is_one_bin(changes):
    assert build("uhkd", changes, "cnn", "vit").levels["1-1"].dc.sum() == 1


def test_dc_of_a_crop_is_its_middle_and_a_grid_has_none():
    level = build("uhkd", {}, "cnn", "vit").levels["1-1"]
    assert level.dc.argmax() == len(level.dc) // 2
    for control in ("C0", "C5"):
        found = first_step({"control": control})[0].diagnostics()
        assert set(found) == {f"{kind}_{stage}-{stage}" for stage in (1, 2, 3, 4) for kind in ("loss", "shuffled_loss")}


@pytest.mark.slow
def test_diagnostics_are_recorded_and_the_same_in_company_alone_and_resumed(trained, monkeypatch):
    def found(plan):
        record = read_run(plan.runs()["cnn-t--vit-s", "uhkd", 0].result)
        for run in plan.runs().values():
            run.result.unlink()
        return record["diagnostics"]

    changes = {"seeds": [0], "checkpoint_seconds": 0, "recipes__student__steps": 6}
    together, alone = plan_for(["kd", "uhkd"], **changes), plan_for(["uhkd"], **changes)
    run_jobs(together, "cohort")
    in_company = found(together)
    assert len(in_company) == 12 and all(value > 0 for value in in_company.values())
    run_jobs(alone, "cohort")
    assert found(alone) == in_company
    interrupted(alone, monkeypatch, at_step=3)
    run_jobs(alone, "cohort")
    assert found(alone) == in_company


def test_notes_tell_of_stages_without_a_spectrum():
    assert build("uhkd", {}, "cnn", "vit").notes() == [
        "grids too coarse for more than the mean over space at student stage 4"
    ]
    assert build("uhkd", {}, "mlp", "vit").notes() == []


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"control": "C1", "compact": "pool"}, "control C1 fixes compact"),
        ({"control": "C0", "fam": "spectrum"}, "control C0 fixes fam"),
        ({"control": "C5", "representation": "complex"}, "control C5 fixes representation"),
        ({"control": "C6", "largest_crop": 5}, "control C6 fixes largest_crop"),
        ({"refine": "gaussian", "representation": "complex"}, "undoes the Gaussian"),
        ({"refine": "gaussian", "control": "C2"}, "undoes the Gaussian"),
        ({"ftm": "batch_norm"}, "standardise the teacher twice"),
        ({"largest_crop": 4}, "odd"),
        ({"temperature": 0.0}, "above 0"),
        ({"ramp": 20.0}, "between 0 and 1"),
    ],
)
def test_meaningless_combinations_are_refused(changes, complaint):
    with pytest.raises(KdbenchError, match=complaint):
        uhkd.Params(**changes)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"control": "C0"},
        {"control": "C5"},
        {"control": "C6"},
        {"compact": "pool"},
        {"transform": "rfft2"},
        {"tokens": "sequence"},
        {"norm": "forward"},
        {"refine": "gaussian", "normalisation": "layer"},
    ],
    ids=str,
)
@pytest.mark.parametrize("student", [(8, 16, 16), (8, 8, 8), (8, 7, 5), (8, 1, 64), (8, 2, 2)], ids=str)
def test_the_last_convolution_commutes_with_the_low_pass(changes, student):
    """It is done where there are fewest places: the numbers are those of the FAM as it is written."""
    teacher = (12, 1, 16) if student[1] == 1 else (12, 8, 8)
    torch.manual_seed(0)
    level = uhkd.Level(uhkd.Params(**changes).resolved, student, teacher).double().eval()
    maps = torch.randn(3, *student, dtype=torch.float64)
    whole = level.represent(level.align(maps))
    torch.testing.assert_close(level.represent_student(maps), whole, rtol=1e-11, atol=1e-12)
    assert level.align[-1].bias.abs().min() > 0, "a constant that the low-pass must keep"
