"""`python -m speed PART`, from the folder of a clone: speed measures kdbench itself and is no part of the package."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from kdbench.types import KdbenchError
from speed import main


def run(argv: list[str] | None = None) -> int:
    """Measure, or print what was measured. Returns the exit code: 0, or after a sentence on stderr 2 or 130."""
    parser = argparse.ArgumentParser(prog="python -m speed", description=main.__doc__)
    parser.add_argument(
        "part", help="field, accuracy, engine, roofline, scale, streaming, all, or `show`: print what was measured"
    )
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--threads", type=int, help="of a process; default all cores")
    parser.add_argument("--jobs", type=int, default=1, help="whole processes at a time (field, accuracy); default 1")
    parser.add_argument("--steps", type=int, help="steps that are timed; default by part and device")
    parser.add_argument("--repeats", type=int, help="default by part and device; seeds for accuracy")
    parser.add_argument(
        "--out", type=Path, help="folder of PART.json; default results/bench (show: else the committed)"
    )
    args = vars(parser.parse_args(argv))
    try:
        if args["part"] == "show":
            print(main.tables(args["out"] or main.measured()))
        else:
            print(*main.bench(args.pop("part"), **args), sep="\n")
    except KdbenchError as error:
        print(f"kdbench: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("kdbench: stopped; parts that were finished are written", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(run())
