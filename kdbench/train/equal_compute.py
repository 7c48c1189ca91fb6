"""Scratch at equal compute: as many operations as another method costs on this pair, the teacher's pass included."""

from __future__ import annotations

import dataclasses

from kdbench.plan.jobs import Run
from kdbench.train.cohort import Cohort
from kdbench.train.engine import Outcome, _start, _step


def equal_compute(cohort: Cohort, run: Run) -> Cohort | Outcome:
    """The cohort of a run of Scratch that trains with the operations of `run.method.compute_of`.

    Both methods take one real step, on students that are dropped afterwards. Its steps are those of the recipe times
    (operations of the method's step + the teacher's pass of a batch) / (operations of a step of Scratch), rounded; a
    copy of the teacher that a method trains is counted in its step. An Outcome "n/a" where the method does not serve
    the pair.
    """
    other = run.method.compute_of
    own = _operations(dataclasses.replace(cohort, teacher=None), run)
    theirs = _operations(cohort, dataclasses.replace(run, method=other))
    if isinstance(theirs, Outcome):
        return dataclasses.replace(theirs, run=run)
    if other.needs_teacher:
        theirs += cohort.teacher_operations
    # The epochs of a recipe stay: a schedule that goes by epochs has as many, of another length.
    recipe = dataclasses.replace(cohort.recipe, steps=round(cohort.steps * theirs / own))
    return dataclasses.replace(cohort, recipe=recipe, teacher=None)


def _operations(cohort: Cohort, run: Run) -> int | Outcome:
    """Of one step, forward and backward, without the teacher's pass."""
    member = _start(cohort, run, fresh=True)
    if isinstance(member, Outcome):
        return member
    for batch in cohort.step_batches(cohort.batches.order(cohort.seed, 0)[: cohort.recipe.global_batch], 0):
        _step(cohort, member, batch)
    return member.operations
