"""The command line: a rule of the workflow is one verb, and every verb can be used by hand.

Heavy imports stay inside the verbs, so that `kdbench plan` answers at once.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import sys
from pathlib import Path

import kdbench
from kdbench import plan as planning
from kdbench import supervise
from kdbench.errors import unknown
from kdbench.plan import Job, Plan
from kdbench.suite import load_suite
from kdbench.types import KdbenchError


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
    if argv is None and args.verb in (_teacher, _distill, _run):
        return supervise.supervised(lambda: _done(args))
    return _done(args)


def _done(args: argparse.Namespace) -> int:
    """Run the verb; whatever a person can mend or has stopped ends in a sentence."""
    try:
        return args.verb(args) or 0
    except KdbenchError as error:
        print(f"kdbench: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"kdbench: {args.stopped}", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="kdbench", description=kdbench.__doc__)
    parser.add_argument("--version", action="version", version=f"kdbench {kdbench.__version__}")
    verbs = parser.add_subparsers(required=True, metavar="VERB")

    def verb(function, help_text: str) -> argparse.ArgumentParser:
        sub = verbs.add_parser(function.__name__.strip("_"), help=help_text, description=help_text)
        sub.set_defaults(
            verb=function, parser=sub, stopped="stopped; finished runs are kept and a checkpoint holds the rest"
        )
        if function not in (_doctor, _check, _compare, _bench):
            sub.add_argument("suite", help="name of a file in config/, or a path to a .yaml")
        return sub

    sub = verb(_plan, "list the jobs of a suite, and how many of their runs are done")
    sub.add_argument("--cost", action="store_true", help="also count steps and operations; needs the data to be packed")
    sub = verb(_data, "pack a data set of a suite")
    sub.add_argument("name")
    for function, what in ((_teacher, "train a teacher"), (_distill, "train the students of a pair")):
        sub = verb(function, what)
        sub.add_argument("name", help="the teacher's model" if function is _teacher else "TEACHER--STUDENT")
        sub.add_argument("--job", help="only this job of it, as the workflow names it")
        sub.add_argument("--expect", metavar="KEY", help="refuse to start if the suite or the code changed since")
        sub.add_argument("--threads", type=int, help="default: what the suite says")
        sub.add_argument("--seeds", type=int, nargs="+", help="only these seeds")
        sub.add_argument("--methods", nargs="+", help="only these methods")
    verb(_tune, "choose the main weight of every tuned method from the settings tried")
    sub = verb(_similarity, "measure how alike two networks are, by frequency band")
    sub.add_argument("name", help="BLOCK/TEACHER--STUDENT, or BLOCK/TEACHER--TEACHER of two modalities")
    sub.add_argument("--kind", choices=("stages", "channels"), default="stages")
    sub = verb(_table, "write tables/SUITE.md, .tex, .html and .csv")
    sub.add_argument("--partial", action="store_true", help="show what there is and mark what is missing")
    sub = verb(_figure, "draw the figures of a suite")
    sub.add_argument("--out", type=Path, help="folder; default results/SUITE/figures")
    verb(_reference, "freeze a finished suite under results/reference and tables/reference")
    verb(_findings, "print what a suite found, from its reference alone")
    sub = verb(_report, "write results/SUITE/report.html: the suite as one page, with what lies behind every cell")
    sub.add_argument("--out", type=Path, help="another file")
    sub = verb(_compare, "do two results agree? Exit code 1 where a cell is not reproduced")
    sub.add_argument("a", metavar="A", help="a suite (its results today), or a path to a runs.csv")
    sub.add_argument("b", metavar="B", nargs="?", help="the same; default results/reference/A/runs.csv")
    sub = verb(_watch, "print how far a suite is, until all is done")
    sub.add_argument("--every", type=float, default=5.0, metavar="SECONDS", help="default 5")
    sub.add_argument("--once", action="store_true", help="say it once and leave")
    sub.set_defaults(stopped="stopped watching; whatever trains the suite goes on")
    verb(_published, "are our accuracies those that were published? Exit code 1 where a cell is not")
    verb(_run, "do the whole plan in this process, without Snakemake")
    sub = verb(_show, "print what is known of a suite, a pair, a cell or a run; or `show methods`")
    sub.add_argument("pair", nargs="?")
    sub.add_argument("method", nargs="?")
    sub.add_argument("seed", nargs="?", type=int)
    sub = verb(_check, "does a method keep the rules, on a GPU too? Runs it on tiny networks of every family")
    sub.add_argument("method", help="NAME, or path/to/file.py:CLASS")
    sub = verb(_bench, "how fast is it? Whole processes and steps, timed with repeats, on this machine")
    sub.add_argument("part", help="field, accuracy, engine, roofline, scale, all, or `show`: print what was measured")
    sub.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    sub.add_argument("--threads", type=int, help="of a process; default all cores")
    sub.add_argument("--jobs", type=int, default=1, help="whole processes at a time (field, accuracy); default 1")
    sub.add_argument("--steps", type=int, help="steps that are timed; default by part and device")
    sub.add_argument("--repeats", type=int, help="default by part and device; seeds for accuracy")
    sub.add_argument(
        "--out", type=Path, help="folder of PART.json; default results/bench (show: else the committed one)"
    )
    sub.set_defaults(stopped="stopped; parts that were finished are written")
    verb(_doctor, "look at this machine: versions, devices, folders, settings")
    return parser


# --------------------------------------------------------------------------------------------------------------- verbs


def _plan(args: argparse.Namespace) -> None:
    from kdbench import results

    plan = _load(args)
    for job in plan.jobs:
        done = sum(results.current(run) is not None for run in job.runs)
        state = f"{done} of {len(job.runs)} runs" if job.runs else ("done" if job.output.exists() else "to do")
        print(f"{job.kind:10} {job.id:44} {state}")
    print(f"{len(plan.jobs)} jobs, {sum(len(job.runs) for job in plan.jobs)} runs; then the table and the figures")
    if args.cost:
        from kdbench import cost

        print("\n".join(["", *cost.lines(plan)]))


def _data(args: argparse.Namespace) -> None:
    from kdbench import jobs

    plan = _load(args)
    names = {job.data: job for job in plan.of("data")}
    if args.name not in names:
        raise unknown("data set", args.name, names, f"suite {plan.suite.name}")
    jobs.run_data(plan, names[args.name])


def _teacher(args: argparse.Namespace) -> None:
    from kdbench import jobs

    plan = _load_to_write(args)
    _train(plan, jobs.find_model_job(plan, args.name), args)


def _distill(args: argparse.Namespace) -> None:
    from kdbench import jobs

    plan = _load_to_write(args)
    _train(plan, jobs.find_pair_jobs(plan, args.name), args)


def _train(plan: Plan, found: list[Job], args: argparse.Namespace) -> None:
    from kdbench import gpus, jobs

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
    # A job that has nothing left to train must not wait for a card.
    work = any(jobs.unfinished(plan, job, args.seeds, args.methods) for job in found)
    with gpus.claimed(plan.suite) if work else contextlib.nullcontext():
        for job in found:
            jobs.run_training(plan, job, threads=threads, seeds=args.seeds, methods=args.methods)


def _tune(args: argparse.Namespace) -> None:
    from kdbench import jobs

    jobs.run_tune(_load_to_write(args))


def _similarity(args: argparse.Namespace) -> None:
    from kdbench import jobs

    plan = _load_to_write(args)
    jobs.run_similarity(plan, plan.job(args.kind, args.name))


def _table(args: argparse.Namespace) -> None:
    from kdbench import jobs

    _wrote(jobs.run_table(_load_to_write(args), partial=args.partial))


def _figure(args: argparse.Namespace) -> None:
    from kdbench import jobs

    plan = _load_to_write(args)
    _wrote(jobs.run_figures(plan, args.out or planning.home(plan.suite) / "figures"))


def _reference(args: argparse.Namespace) -> None:
    from kdbench import jobs

    _wrote(jobs.run_reference(_load_to_write(args)))


def _findings(args: argparse.Namespace) -> None:
    from kdbench import findings

    print(findings.reference_page(_load(args).suite), end="")


def _report(args: argparse.Namespace) -> None:
    from kdbench import report

    plan = _load_to_write(args)
    _wrote([report.write_report(plan, args.out or planning.home(plan.suite) / "report.html")])


def _compare(args: argparse.Namespace) -> int:
    from kdbench import compare

    return 0 if compare.compare(args.a, args.b) else 1


def _published(args: argparse.Namespace) -> int:
    from kdbench import published

    return 0 if published.published(_load(args)) else 1


def _watch(args: argparse.Namespace) -> None:
    from kdbench import watch

    watch.watch(_load(args), args.every, args.once)


def _run(args: argparse.Namespace) -> None:
    from kdbench import gpus, jobs

    plan = _load_to_write(args)
    with gpus.claimed(plan.suite):
        _wrote(jobs.run_all(plan))


def _show(args: argparse.Namespace) -> None:
    from kdbench import catalogue, show

    if args.suite == "methods":
        print(catalogue.page())
        return
    show.show(_load(args), args.pair, args.method, args.seed)


def _check(args: argparse.Namespace) -> int:
    from kdbench import conformance, rehearsal

    findings = conformance.check(args.method)
    if reason := rehearsal.why_not():
        print(f"not tried for GPUs: {reason}")
    elif not findings:
        findings = conformance.rehearse(args.method)
    for finding in findings:
        print(finding)
    print(f"{args.method}: {f'{len(findings)} findings' if findings else 'keeps the rules'}")
    return 1 if findings else 0


def _bench(args: argparse.Namespace) -> None:
    from kdbench.bench import main

    if args.part == "show":
        print(main.tables(args.out or main.measured()))
        return
    options = ("device", "threads", "jobs", "steps", "repeats", "out")
    _wrote(main.bench(args.part, **{name: getattr(args, name) for name in options}))


def _doctor(args: argparse.Namespace) -> int:
    from kdbench import doctor

    return doctor.examine()


def _load(args: argparse.Namespace) -> Plan:
    return planning.plan(load_suite(args.suite))


def _load_to_write(args: argparse.Namespace) -> Plan:
    plan = _load(args)
    planning.claim(plan.suite)
    return plan


def _wrote(paths: list[Path]) -> None:
    for path in paths:
        print(path)


if __name__ == "__main__":
    sys.exit(main())
