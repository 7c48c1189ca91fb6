"""Every method, variant and control on every mix of families, with made-up signals of plausible shapes."""

import importlib
import itertools
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from builders import BATCH, CLASSES, FAMILIES, SIDES, build, conforms, signals
from conftest import run_jobs
from test_engine import interrupted, plan_for

from kdbench.conformance import check
from kdbench.conformance.networks import MODELS
from kdbench.methods import fdcmkd, ofa, uhkd
from kdbench.plan import registry
from kdbench.results.record import read_run
from kdbench.types import KdbenchError, PairShapes, Side

ONE_PAIR = [(MODELS["teacher-cnn"], MODELS["student-vit"])]
HEADS_ONLY = {"weight": 0.0, "align_weight": 0.0}
VARIANTS = {
    "scratch": [{}],
    "kd": [{}, {"temperature": 4.0, "ce_weight": 0.1, "kd_weight": 0.9}],
    "ofa": [{}, {"eps": (1.0, 1.1, 1.2, 1.3, 1.5), "ofa_loss_weight": 0.1, "temperature": 2.0}],
    "fdcmkd": [
        {},
        {"weight": 30.0},
        {"variant": "paper", "times_width": True},
        {"teacher": False},
        {"teacher": False, "variant": "paper"},
        HEADS_ONLY,
        {**HEADS_ONLY, "variant": "paper"},
        {"align_weight": 0.0},
        {"lambda_low": 0.0, "lambda_high": 0.0},
        {"high_distance": "mse"},
        {"low_distance": "logmse"},
        {"split": "random"},
        {"split": "permuted"},
        {"keep_dc": True},
        {"shuffled_teacher": True},
    ],
    "uhkd": [
        {},
        *({"control": f"C{i}"} for i in range(7)),
        {"control": "C0", "normalisation": "off"},
        {"tokens": "sequence"},
        {"norm": "forward"},
        {"transform": "rfft2"},
        {"transform": "rfft2", "compact": "pool"},
        {"representation": "complex"},
        {"compact": "pool"},
        {"compact": "pool", "representation": "complex", "normalisation": "layer"},
        {"crop_rule": "largest"},
        {"refine": "gaussian"},
        {"refine": "gaussian", "representation": "complex", "normalisation": "layer", "transform": "rfft2"},
        {"ftm": "batch_norm", "normalisation": "layer"},
        {"fam": "spectrum"},
        {"normalisation": "channel"},
        {"levels": "last_two", "ramp": 0.5},
        {"levels": "all_to_all", "temperature": 4.0},
    ],
}
CASES = [(name, changes) for name, variants in VARIANTS.items() for changes in variants]
IDS = ["-".join([name, *(f"{k}={v}" for k, v in changes.items())]) for name, changes in CASES]


@pytest.mark.parametrize("teacher", FAMILIES)
@pytest.mark.parametrize("student", FAMILIES)
@pytest.mark.parametrize(("name", "changes"), CASES, ids=IDS)
def test_conformance(name, changes, student, teacher):
    ours, distiller = conforms(name, changes, student, teacher)
    needed = distiller.needs(distiller.params)
    if "pooled_preact" in needed:
        assert ours.pooled_preact.grad.any()
    if "stages" in needed:
        used = ours.stages[2:] if changes.get("levels") == "last_two" else ours.stages
        assert all(stage.grad.any() for stage in used)
    if "prefix" in needed and SIDES[student].prefix:
        assert all(prefix.grad.any() for prefix in ours.prefix)


@pytest.mark.parametrize(
    ("student", "teacher"),
    [
        ("cnn 1x1", "vit"),
        ("vit", "cnn 1x1"),
        ("swin", "cnn"),
        ("cnn", "swin"),
        ("registers", "mlp"),
        ("sequence", "cnn"),
        ("cnn", "sequence"),
        ("sequence cnn", "sequence"),
        ("sequence", "sequence cnn"),
    ],
)
@pytest.mark.parametrize("name", VARIANTS)
def test_odd_shapes(name, student, teacher):
    conforms(name, {}, student, teacher)


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("student", FAMILIES)
def test_bf16_signals_inside_and_outside_autocast(name, student):
    conforms(name, {}, student, "cnn", dtype=torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        conforms(name, {}, student, "cnn", dtype=torch.bfloat16)


@pytest.mark.parametrize("name", ["ofa", "uhkd"])
def test_fewer_than_four_stages_is_a_reason(name):
    method = importlib.import_module(f"kdbench.methods.{name}").Method
    short = replace(SIDES["cnn"], stages=SIDES["cnn"].stages[:3])
    pair = PairShapes(short, SIDES["vit"], CLASSES, 100)
    assert "fewer than four" in method.supports(method.Params(), pair)


# ------------------------------------------------------------------------------------------------------------------ ofa


def test_ofa_branches_are_the_released_ones():
    teacher = replace(SIDES["cnn"], pooled=40)
    branches = ofa.Method(ofa.Params(), PairShapes(SIDES["cnn"], teacher, CLASSES, 100)).branches
    depthwise = [
        [m.in_channels for m in b.modules() if isinstance(m, torch.nn.Conv2d) and m.groups > 1] for b in branches
    ]
    assert depthwise == [[8, 8, 16, 16, 32, 32], [12, 12, 24, 24], [16, 16], []]
    assert [branch[-1].in_features for branch in branches] == [40] * 4
    swin = replace(SIDES["swin"], stages=((96, 56, 56), (192, 28, 28), (384, 14, 14), (768, 7, 7)), pooled=768)
    branches = ofa.Method(ofa.Params(), PairShapes(swin, teacher, CLASSES, 100)).branches
    assert [len(b.merge) for b in branches] == [3, 2, 1, 0]
    assert [len(b.blocks) for b in branches] == [3, 2, 1, 1]
    assert [type(m.activation).__name__ for m in branches[0].merge] == ["GELU", "GELU", "Identity"]
    assert branches[0].merge(torch.randn(1, 56, 56, 96)).shape == (1, 7, 7, 768)


def test_patch_merging_joins_neighbours():
    merging = ofa.PatchMerging(1, 4, 2, 2, torch.nn.Identity())
    merging.norm, merging.reduction = torch.nn.Identity(), torch.nn.Identity()
    joined = merging(torch.arange(16.0).view(1, 4, 4, 1))
    assert joined[0, 0, 1].tolist() == [2, 3, 6, 7]


@pytest.mark.parametrize("eps", [(1.0, 1.0), 0.0, -1.0])
def test_ofa_refuses_a_wrong_eps(eps):
    with pytest.raises(KdbenchError, match="eps"):
        ofa.Params(eps=eps)


# --------------------------------------------------------------------------------------------------------------- fdcmkd


def test_fdcmkd_terms_by_variant():
    def terms(**changes):
        distiller = build("fdcmkd", changes, "cnn", "mlp")
        teacher = signals(SIDES["mlp"], seed=1) if distiller.pair.teacher else None
        return distiller(signals(SIDES["cnn"]), teacher, torch.arange(BATCH) % CLASSES, 0.0)

    code = {"ce", "ce_low", "ce_high", "low", "high", "align_low", "align_high"}
    assert set(terms()) == code
    heavy, plain = terms(weight=3.0), terms()
    assert all(heavy[band].item() == pytest.approx(3 * plain[band].item()) for band in ("low", "high"))
    assert all(torch.equal(heavy[name], plain[name]) for name in code - {"low", "high"})
    assert set(terms(variant="paper")) == code - {"ce_low", "ce_high"}
    assert set(terms(teacher=False)) == {"ce", "ce_low", "ce_high"}
    assert set(terms(align_weight=0.0)) == code - {"align_low", "align_high"}
    assert set(terms(lambda_low=0.0, lambda_high=0.0)) == code - {"low", "high"}
    assert terms(times_width=True)["low"].item() == pytest.approx(24 * terms()["low"].item())
    own, other = signals(SIDES["cnn"]).pooled_preact, signals(SIDES["mlp"], seed=1).pooled_preact
    assert terms()["low"].item() == pytest.approx(fdcmkd.low_loss(own, other).item())
    assert terms()["high"].item() == pytest.approx(fdcmkd.high_loss(own, other).item())


def test_fdcmkd_tells_of_its_projector():
    assert build("fdcmkd", {}, "cnn", "mlp").notes() == []
    assert "16 to 24" in build("fdcmkd", {}, "vit", "mlp").notes()[0]


@pytest.mark.parametrize("variant", ["code", "paper"])
def test_fdcmkd_heads_only_is_the_method_without_its_losses_on_the_teacher(variant):
    """Where widths agree it is the arm without a teacher; where they differ its heads read the method's Linear."""
    target = torch.arange(BATCH) % CLASSES
    same = [
        build("fdcmkd", {"variant": variant, **changes}, "cnn", "mlp")(signals(SIDES["cnn"]), theirs, target, 0.0)
        for changes, theirs in ((HEADS_ONLY, signals(SIDES["mlp"], seed=1)), ({"teacher": False}, None))
    ]
    assert set(same[0]) == {"ce", "ce_low", "ce_high"} and all(torch.equal(same[0][k], same[1][k]) for k in same[0])
    full, heads = (build("fdcmkd", {"variant": "code", **changes}, "vit", "mlp") for changes in ({}, HEADS_ONLY))
    state = full.state_dict()
    assert heads.projector.out_features == 24 and "16 to 24" in heads.notes()[0]
    assert all(torch.equal(value, state[name]) for name, value in heads.state_dict().items())
    ours, theirs = signals(SIDES["vit"]), signals(SIDES["mlp"], seed=1)
    both = [distiller(ours, theirs, target, 0.0) for distiller in (full, heads)]
    assert set(both[1]) == {"ce", "ce_low", "ce_high"} and all(torch.equal(both[0][k], both[1][k]) for k in both[1])


@pytest.mark.parametrize("width", [5, 16, 33])
@pytest.mark.parametrize("split", ["frequency", "permuted", "random"])
def test_splits_are_complementary_projections_of_the_same_ranks(width, split):
    module = fdcmkd.RandomSplit(width) if split == "random" else fdcmkd.FrequencySplit(width, split == "permuted")
    low, high = module(torch.eye(width))
    centred = torch.eye(width) - 1 / width
    torch.testing.assert_close(low + high, centred, rtol=0, atol=1e-5)
    torch.testing.assert_close(low @ low, low, rtol=0, atol=1e-5)
    torch.testing.assert_close(low, low.T, rtol=0, atol=1e-5)
    assert torch.linalg.matrix_rank(low, atol=1e-3) == 2 * (width // 4)


# ----------------------------------------------------------------------------------------------------------------- uhkd


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
