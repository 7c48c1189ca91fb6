"""The first loss of a training equals mdistiller's, from the same weights and batch (tests/first_losses.py)."""

import json

import first_losses
import pytest

RECORDED = json.loads(first_losses.FILE.read_text())


@pytest.fixture(scope="module")
def sides():
    return first_losses.read("student"), first_losses.read("teacher")


def test_the_record_says_whose_numbers_they_are():
    assert (RECORDED["repository"], RECORDED["commit"]) == (first_losses.REPOSITORY, first_losses.COMMIT)
    assert set(RECORDED["losses"]) == set(first_losses.METHODS)


@pytest.mark.parametrize("name", first_losses.METHODS)
def test_the_first_loss_is_mdistillers(name, sides):
    (student, shown), (teacher, taught) = sides
    distiller = first_losses.distiller(name, student, teacher)
    first_losses.drawing(name)
    terms = distiller(shown, taught, first_losses.target(), first_losses.WARM)
    (own,) = set(terms) - {"ce"}
    found = {"ce": terms["ce"].item(), "kd": terms[own].item()}
    assert found == pytest.approx(RECORDED["losses"][name], rel=1e-5)
