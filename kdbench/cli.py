"""The command line: a rule of the workflow is one verb, and every verb can be used by hand.

A verb is a function with its arguments beside it. Heavy imports stay inside, so that `kdbench plan` answers at once.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import kdbench
from kdbench import supervise
from kdbench.cpu import slow_bf16
from kdbench.errors import unknown
from kdbench.plan.jobs import Job, Plan, jobs_of_pair, jobs_of_teacher, make_plan
from kdbench.plan.models import origin
from kdbench.plan.paths import claim, home
from kdbench.plan.suite import load_suite
from kdbench.types import KdbenchError

FOR_YOU, FOR_THE_WORKFLOW, FOR_KEEPERS = "for you", "for the workflow", "for keepers of results"
KEPT = "stopped; finished runs are kept and a checkpoint holds the rest"


class Verb(NamedTuple):
    run: Callable[[argparse.Namespace], int | None]
    help: str
    group: str
    example: str
    """What one types after `kdbench`."""
    arguments: tuple[tuple[tuple[str, ...], dict[str, Any]], ...]
    stopped: str
    """What Ctrl-C leaves."""
    trains: bool
    """Works in a child process when it is a command line of its own."""


VERBS: dict[str, Verb] = {}


def argument(*names: str, **options: Any) -> tuple[tuple[str, ...], dict[str, Any]]:
    return names, options


def _positive(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"a whole number from 1 up, not {text!r}")
    return int(text)


SUITE = argument("suite", help="name of a file in config/ or of a suite that comes with kdbench, or a path to a .yaml")
REFERENCE = argument(
    "--reference", action="store_true", help="from results/reference/SUITE alone, without the files of its runs"
)


def verb(group: str, example: str, *arguments: Any, stopped: str = KEPT, trains: bool = False) -> Callable:
    """Makes a function a verb: --help shows its name without the underscore, its docstring and these arguments."""

    def register(function: Callable[[argparse.Namespace], int | None]) -> Callable:
        name = function.__name__.strip("_")
        VERBS[name] = Verb(function, function.__doc__, group, example, arguments, stopped, trains)
        return function

    return register


def main(argv: list[str] | None = None) -> int:
    """Run one verb. Returns the exit code: 0, or after a sentence on stderr 2, 130 where the user stopped it, 141 where
    whoever read its output did."""
    streams = [stream for stream in (sys.stdout, sys.stderr) if isinstance(stream, io.TextIOWrapper)]
    for stream in streams:  # what the terminal's encoding lacks, a dagger say, is shown by its number
        stream.reconfigure(errors="backslashreplace")
    try:
        try:
            return _run_verb(argv)
        finally:
            print(end="", flush=True)
    except BrokenPipeError:
        for stream in streams:  # else Python would fail again on what is left of it
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        return 141


def _run_verb(argv: list[str] | None) -> int:
    args, strange = _parser().parse_known_args(argv)
    if strange:  # argparse itself would tell it with the usage of all verbs
        args.parser.error(f"unrecognized arguments: {' '.join(strange)}")
    # Only a command line of its own gets a child: a program that calls this keeps what it does in its own process.
    if argv is None and args.verb.trains:
        return supervise.supervised(lambda: _done(args))
    return _done(args)


def _done(args: argparse.Namespace) -> int:
    """Run the verb; whatever a person can mend or has stopped ends in a sentence."""
    try:
        return args.verb.run(args) or 0
    except KdbenchError as error:
        print(f"kdbench: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"kdbench: {args.verb.stopped}", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="kdbench",
        description=kdbench.__doc__,
        epilog=_overview(),
        usage="kdbench VERB ...",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"kdbench {kdbench.__version__}")
    verbs = parser.add_subparsers(
        prog="kdbench", required=True, metavar="VERB", help="one of these; `kdbench VERB --help` says more"
    )
    for name, verb in VERBS.items():
        sub = verbs.add_parser(name, description=verb.help, epilog=f"example: kdbench {verb.example}")
        sub.set_defaults(verb=verb, parser=sub)
        for names, options in verb.arguments:
            sub.add_argument(*names, **options)
    return parser


def _overview() -> str:
    """All verbs by group, each with an example."""
    lines = []
    for group in (FOR_YOU, FOR_THE_WORKFLOW, FOR_KEEPERS):
        lines += ["", f"{group}:"]
        for name, verb in VERBS.items():
            if verb.group == group:
                lines += [f"  {name:11} {verb.help}", f"  {'':11}   kdbench {verb.example}"]
    return "\n".join(lines[1:])


# --------------------------------------------------------------------------------------------------------------- verbs


@verb(FOR_YOU, "init mine", argument("folder", type=Path, help="new or empty"))
def _init(args: argparse.Namespace) -> None:
    """Lay out a folder to work in: Snakefile, config/quick.yaml, profiles."""
    from kdbench.terminal import init

    _wrote(init.lay_out(args.folder))


@verb(
    FOR_YOU,
    "plan quick --cost",
    SUITE,
    argument("--cost", action="store_true", help="also time a few steps: hours, memory, disk; needs the data packed"),
)
def _plan(args: argparse.Namespace) -> None:
    """List the jobs of a suite, and how many of their runs are done."""
    from kdbench.results.today import Today

    plan = _load(args)
    today = Today(plan)
    for job in plan.jobs:
        done = sum(today.has(run) is not None for run in job.runs)
        state = f"{done} of {len(job.runs)} runs" if job.runs else ("done" if job.output.exists() else "to do")
        given = origin(plan.suite.models[job.pair.student]) if job.kind == "teacher" else None
        print(f"{job.kind:10} {job.id:44} {state}{f'; {given}' if given else ''}")
    print(f"{len(plan.jobs)} jobs, {sum(len(job.runs) for job in plan.jobs)} runs; then the table and the figures")
    if plan.suite.precision == "bf16" and plan.suite.device != "cuda" and (why := slow_bf16()):
        print(f"precision: bf16, but {why}; this suite trains on a GPU only")
    if args.cost:
        from kdbench.terminal import cost

        print("\n".join(["", *cost.lines(plan)]))


@verb(FOR_YOU, "run config/mine.yaml", SUITE, trains=True)
def _run(args: argparse.Namespace) -> None:
    """Do the whole plan in this process, without Snakemake."""
    from kdbench.run import gpus
    from kdbench.run.everything import run_all

    plan = _load_to_write(args)
    with gpus.claimed(plan.suite):
        _wrote(run_all(plan))


@verb(
    FOR_YOU,
    "watch quick",
    SUITE,
    argument("--every", type=float, default=5.0, metavar="SECONDS", help="default 5"),
    argument("--once", action="store_true", help="say it once and leave"),
    stopped="stopped watching; whatever trains the suite goes on",
)
def _watch(args: argparse.Namespace) -> None:
    """Print how far a suite is, until all is done."""
    from kdbench.terminal import watch

    watch.watch(_load(args), args.every, args.once)


@verb(
    FOR_YOU,
    "show quick cnn-t--vit-s kd 0",
    argument("suite", help="name of a file in config/, or a path to a .yaml; or `methods`, `data` or `claims`"),
    argument("pair", nargs="?"),
    argument("method", nargs="?"),
    argument("seed", nargs="?", type=int),
)
def _show(args: argparse.Namespace) -> None:
    """Print what is known of a suite, a pair, a cell or a run; `show methods`, `show data` (sources and licences) or
    `show claims`."""
    from kdbench.terminal import catalogue, show

    if args.suite == "methods":
        print(catalogue.page())
        return
    if args.suite == "data":
        print(catalogue.data_page())
        return
    if args.suite == "claims":
        from kdbench.claims import _page

        print(_page.page())
        return
    show.show(_load(args), args.pair, args.method, args.seed)


@verb(FOR_YOU, "report quick", SUITE, REFERENCE, argument("--out", type=Path, help="another file"))
def _report(args: argparse.Namespace) -> None:
    """Write results/SUITE/report.html: the suite as one page, with what lies behind every cell."""
    from kdbench.report import html as report

    plan = _load_to_write(args)
    if args.reference:
        _wrote([report.write_reference_report(plan, args.out or home(plan.suite) / "reference.html")])
    else:
        _wrote([report.write_report(plan, args.out or home(plan.suite) / "report.html")])


@verb(FOR_YOU, "cite quick", argument("suite", nargs="?", help="as for other verbs; default all methods and data"))
def _cite(args: argparse.Namespace) -> None:
    """Print the BibTeX of kdbench and of a suite's methods and data, as it lies in tables/SUITE.bib."""
    from kdbench.report.cite import citations

    print(citations(load_suite(args.suite) if args.suite else None))


@verb(
    FOR_YOU,
    "compare quick",
    argument("a", metavar="A", help="a suite (its results today), or a path to a runs.csv"),
    argument("b", metavar="B", nargs="?", help="the same; default results/reference/A/runs.csv"),
)
def _compare(args: argparse.Namespace) -> int:
    """Do two results agree? Exit code 1 where a cell is not reproduced."""
    from kdbench.terminal import compare

    return 0 if compare.compare(args.a, args.b) else 1


@verb(FOR_YOU, "check my_kd.py:MyKD", argument("method", help="NAME, or path/to/file.py:CLASS"))
def _check(args: argparse.Namespace) -> int:
    """Does a method keep the rules, on a GPU too? Runs it on tiny networks of every family."""
    from kdbench.conformance import rehearsal
    from kdbench.conformance import rules as conformance

    findings = conformance.check(args.method)
    if reason := rehearsal.why_not():
        print(f"not tried for GPUs: {reason}")
    elif not findings:
        findings = conformance.rehearse(args.method)
    for finding in findings:
        print(finding)
    print(f"{args.method}: {f'{len(findings)} findings' if findings else 'keeps the rules'}")
    return 1 if findings else 0


@verb(
    FOR_YOU,
    "claim token_bandwidth",
    argument("name", nargs="?", help="of a file in kdbench/claims; without it, all are listed"),
    stopped="stopped; nothing was written",
)
def _claim(args: argparse.Namespace) -> None:
    """Put a published claim to the test, or list the claims and the verdicts on them."""
    from kdbench import claims
    from kdbench.claims import _page
    from kdbench.files import read_json

    if args.name is None:
        print(_page.listing())
        return
    path = claims.run_claim(args.name)
    result = read_json(path)
    print(f"{claims.load(args.name).CLAIM}\n{claims.found(claims.load(args.name), result)}\n{result['verdict']}")
    _wrote([path])


@verb(FOR_YOU, "doctor")
def _doctor(args: argparse.Namespace) -> int:
    """Look at this machine: versions, devices, folders, settings."""
    from kdbench.terminal import doctor

    return doctor.examine()


@verb(
    FOR_YOU,
    "submit quick --method my_kd.py:MyKD",
    SUITE,
    argument("--method", required=True, metavar="FILE:CLASS", help="path/to/file.py:CLASS"),
    argument("--name", help="of the row and its folder; default: the file's"),
    trains=True,
)
def _submit(args: argparse.Namespace) -> None:
    """Train your method beside the check rows of a suite and write submissions/NAME, a row that others can verify."""
    from kdbench.submit.submit import submit

    _wrote(submit(args.suite, args.method, args.name))


@verb(
    FOR_YOU,
    "verify submissions/logit-mse",
    argument("submissions", nargs="+", metavar="SUBMISSION", help="submissions/NAME"),
    argument("--recompute-only", action="store_true", help="train nothing, and leave verified.json as it is"),
    trains=True,
)
def _verify(args: argparse.Namespace) -> None:
    """Are submitted rows what they say? Recomputes all numbers, trains one run again and writes verified.json."""
    from kdbench.submit.verify import verify

    for submission in args.submissions:
        verify(submission, args.recompute_only)


ONE_JOB = argument("--job", help="only this job of it, as the workflow names it")


@verb(
    FOR_THE_WORKFLOW,
    "data quick digits",
    SUITE,
    argument("name", help="the data set, as the suite names it"),
    ONE_JOB,
)
def _data(args: argparse.Namespace) -> None:
    """Pack a data set of a suite: all that its seeds draw."""
    from kdbench.run.data import run_data

    plan = _load(args)
    found = [job for job in plan.of("data") if job.data == args.name]
    if not found:
        raise unknown("data set", args.name, {job.data for job in plan.of("data")}, f"suite {plan.suite.name}")
    for job in [plan.job("data", args.job)] if args.job else found:
        run_data(plan, job)


TRAINING = (
    ONE_JOB,
    argument("--expect", metavar="KEY", help="refuse to start if the suite or the code changed since"),
    argument("--threads", type=int, help="default: what the suite says"),
    argument("--seeds", type=int, nargs="+", help="only these seeds"),
    argument("--methods", nargs="+", help="only these methods"),
)


@verb(
    FOR_THE_WORKFLOW, "teacher quick cnn-t", SUITE, argument("name", help="the teacher's model"), *TRAINING, trains=True
)
def _teacher(args: argparse.Namespace) -> None:
    """Train a teacher, or measure one whose weights are given."""
    plan = _load_to_write(args)
    _train(plan, jobs_of_teacher(plan, args.name), args)


@verb(
    FOR_THE_WORKFLOW,
    "distill quick cnn-t--vit-s --methods kd",
    SUITE,
    argument("name", help="TEACHER--STUDENT"),
    *TRAINING,
    trains=True,
)
def _distill(args: argparse.Namespace) -> None:
    """Train the students of a pair."""
    plan = _load_to_write(args)
    _train(plan, jobs_of_pair(plan, args.name), args)


def _train(plan: Plan, found: list[Job], args: argparse.Namespace) -> None:
    from kdbench.results.today import Today
    from kdbench.run import gpus
    from kdbench.run.training import run_training, unfinished

    if args.job:
        found = [job for job in found if job.id == f"{args.name}/{args.job}"] or [plan.job(found[0].kind, args.job)]
    seeds = list(dict.fromkeys(run.seed for job in found for run in job.runs))
    for seed in args.seeds or ():
        if seed not in seeds:
            raise unknown("seed", seed, seeds, args.name)
    known = {run.method.id for job in found for run in job.runs}
    for method in args.methods or ():
        if method not in known:
            raise unknown("method", method, known, args.name)
    for job in found:
        if args.expect and args.expect != job.key:
            raise KdbenchError(
                f"{args.suite} or the code changed since this workflow was started (job {job.id}); "
                "start snakemake again"
            )
    threads = args.threads or plan.suite.threads
    today = Today(plan)
    # A job that has nothing left to train must not wait for a card.
    work = any(unfinished(today, job, args.seeds, args.methods) for job in found)
    with gpus.claimed(plan.suite) if work else contextlib.nullcontext():
        for job in found:
            run_training(plan, job, threads=threads, seeds=args.seeds, methods=args.methods)


@verb(FOR_THE_WORKFLOW, "tune glyphs", SUITE)
def _tune(args: argparse.Namespace) -> None:
    """Choose the main weight of every tuned method from the settings tried."""
    from kdbench.run.tune import run_tune

    run_tune(_load_to_write(args))


@verb(
    FOR_THE_WORKFLOW,
    "similarity quick heterogeneous/cnn-t--vit-s",
    SUITE,
    argument("name", help="BLOCK/TEACHER--STUDENT, or BLOCK/TEACHER--TEACHER of two modalities"),
    argument("--kind", choices=("stages", "channels"), default="stages"),
)
def _similarity(args: argparse.Namespace) -> None:
    """Measure how alike two networks are, by frequency band."""
    from kdbench.run.measure import run_similarity

    plan = _load_to_write(args)
    run_similarity(plan, plan.job(args.kind, args.name))


@verb(
    FOR_YOU,
    "table quick --partial",
    SUITE,
    argument("--partial", action="store_true", help="show what there is and mark what is missing"),
    REFERENCE,
    argument("--with", dest="submitted", nargs="+", metavar="NAME", default=[], help="also rows of submissions/NAME"),
)
def _table(args: argparse.Namespace) -> None:
    """Write tables/SUITE.md, .html, .csv and, for a paper, .tex and .bib (with --reference: in tables/reference)."""
    from kdbench.run.outputs import reference_tables, run_table

    plan = _load_to_write(args)
    if args.reference:
        _wrote(reference_tables(plan, args.submitted))
    else:
        _wrote(run_table(plan, partial=args.partial, submitted=args.submitted))


@verb(
    FOR_YOU,
    "figure quick",
    SUITE,
    REFERENCE,
    argument("--out", type=Path, help="folder; default results/SUITE/figures, or results/SUITE/reference-figures"),
    argument("--processes", type=_positive, default=1, help="that draw side by side; default 1"),
)
def _figure(args: argparse.Namespace) -> None:
    """Draw the figures of a suite."""
    from kdbench.run.outputs import reference_figures, run_figures

    plan = _load_to_write(args)
    if args.reference:
        _wrote(reference_figures(plan, args.out or home(plan.suite) / "reference-figures", args.processes))
    else:
        _wrote(run_figures(plan, args.out or home(plan.suite) / "figures", args.processes))


@verb(FOR_KEEPERS, "reference mine", SUITE)
def _reference(args: argparse.Namespace) -> None:
    """Freeze a finished suite under results/reference and tables/reference."""
    from kdbench.run.outputs import run_reference

    _wrote(run_reference(_load_to_write(args)))


CARRIED = argument("folder", type=Path, help="where the files of finished runs lie")


@verb(FOR_KEEPERS, "export glyphs carried/glyphs", SUITE, CARRIED)
def _export(args: argparse.Namespace) -> None:
    """Write all finished runs as files below 2 MB, from which another machine goes on."""
    from kdbench.run.carry import export_runs

    _wrote(export_runs(_load(args), args.folder))


@verb(FOR_KEEPERS, "import glyphs carried/glyphs", SUITE, CARRIED)
def _import(args: argparse.Namespace) -> None:
    """Take finished runs that another machine exported; nothing is written over."""
    from kdbench.run.carry import import_runs

    import_runs(_load_to_write(args), args.folder)


@verb(
    FOR_KEEPERS,
    "teachers import quick",
    argument("action", choices=("export", "import")),
    SUITE,
    argument("folder", nargs="?", type=Path, help="default results/reference/SUITE/teachers"),
    argument("--seeds", type=int, nargs="+", help="export only these seeds"),
)
def _teachers(args: argparse.Namespace) -> None:
    """Write trained teachers as files for a repository, or take them from there instead of training them."""
    from kdbench.plan.paths import found
    from kdbench.run import teachers

    plan = _load_to_write(args)
    folder = args.folder or teachers.teachers_folder(plan.suite)
    if args.action == "export":
        _wrote(teachers.export_teachers(plan, folder, args.seeds))
    else:
        teachers.import_teachers(plan, found(folder))


@verb(FOR_KEEPERS, "findings glyphs", SUITE)
def _findings(args: argparse.Namespace) -> None:
    """Write docs/results-SUITE.md: what a suite found, from its reference alone. An abstract by hand stays."""
    from kdbench.terminal import findings

    _wrote(findings.write_page(_load(args).suite))


@verb(
    FOR_KEEPERS,
    "proxy glyphs cifar100-32-night",
    SUITE,
    argument("other", metavar="other", help="the suite that it may stand for, named likewise"),
)
def _proxy(args: argparse.Namespace) -> None:
    """Do methods that gain in one suite gain in another? Rank correlation of their effects, from both references."""
    from kdbench.terminal import proxy

    _wrote(proxy.write_proxy(load_suite(args.suite), load_suite(args.other)))


@verb(FOR_KEEPERS, "published anchors-32", SUITE)
def _published(args: argparse.Namespace) -> int:
    """Are our accuracies those that were published? Also in tables/SUITE-published.md. Exit code 1 where one is not."""
    from kdbench.terminal import published

    return 0 if published.published(_load_to_write(args)) else 1


def _load(args: argparse.Namespace) -> Plan:
    return make_plan(load_suite(args.suite))


def _load_to_write(args: argparse.Namespace) -> Plan:
    plan = _load(args)
    claim(plan.suite)
    return plan


def _wrote(paths: list[Path]) -> None:
    for path in paths:
        print(path)


if __name__ == "__main__":
    sys.exit(main())
