# The contents page of the workflow. Which jobs there are is decided in kdbench/plan/; a rule is one verb of `kdbench`.
#
#   snakemake --cores all                         the default suite, config/quick.yaml
#   snakemake --cores all --config suite=NAME     config/NAME.yaml, a suite that comes with kdbench, or a path to a .yaml

import os
import shlex
import sys

from snakemake.exceptions import WorkflowError

from kdbench.plan import workflow as planning
from kdbench.plan.jobs import make_plan
from kdbench.plan.paths import home, table_files, tuned_file
from kdbench.plan.suite import configured, load_suite, suite_path
from kdbench.types import KdbenchError


# Used with --sdm apptainer only; an image of your own with environment.yml installed goes here.
container: "docker://python:3.11"


try:
    # Rules ask for it by a function: Snakemake would take braces in a path for wildcards.
    SUITE = suite_path(configured(config)).as_posix()
    PLAN = make_plan(load_suite(SUITE))
    DATA_FILES = {job.id: planning.source_state(PLAN.suite, job) for job in PLAN.of("data")}
except KdbenchError as error:
    raise WorkflowError(str(error))

HOME = home(PLAN.suite).as_posix()
# Jobs find the `kdbench` that belongs to this Python, whether its environment is activated or not.
shell.prefix(f"set -euo pipefail; export PATH={shlex.quote(os.path.dirname(sys.executable))}:$PATH; ")


wildcard_constraints:
    model="[^/]+",
    block="[^/]+",
    pair="[^/]+",
    part="[^/]+",


report: "workflow/report/suite.rst"


# The manifests stand here too: a cohort that failed below an existing table would else be "nothing to be done".
rule all:
    input:
        [job.output for job in PLAN.jobs],
        table_files(PLAN.suite),
        f"{HOME}/figures",


include: "workflow/rules/data.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/report.smk"
