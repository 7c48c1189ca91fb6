# What people read. Each of these starts anew when a result below it or the code that draws it changes.


def view_of(figure):
    """Where a figure stands within its block in `snakemake --report`."""
    return f"by {figure.view}" if "view" in figure.keys() else "all"


def labels_of(figure):
    """What tells a figure from its neighbours there. The report makes a switch of low and high."""
    if "view" not in figure.keys():
        return {"figure": figure.kind, "suite": PLAN.suite.name}
    return {figure.view: figure.shown, "suite": PLAN.suite.name, "frequencies": figure.band}


rule stages:
    input:
        lambda w: PLAN.job("stages", f"{w.block}/{w.pair}").inputs,
    output:
        f"{HOME}/similarity/{{block}}/{{pair}}.json",
    log:
        f"{HOME}/logs/stages/{{block}}/{{pair}}.log",
    threads: PLAN.suite.threads
    params:
        suite=SUITE,
        code=planning.report_code("measure.py", "similarity.py", "frequency.py"),
    shell:
        "kdbench similarity {params.suite} {wildcards.block}/{wildcards.pair} --kind stages 2>&1 | tee {log}"


rule channels:
    input:
        lambda w: PLAN.job("channels", f"{w.block}/{w.pair}").inputs,
    output:
        f"{HOME}/channels/{{block}}/{{pair}}.json",
    log:
        f"{HOME}/logs/channels/{{block}}/{{pair}}.log",
    threads: PLAN.suite.threads
    params:
        suite=SUITE,
        code=planning.report_code("measure.py", "similarity.py", "frequency.py"),
    shell:
        "kdbench similarity {params.suite} {wildcards.block}/{wildcards.pair} --kind channels 2>&1 | tee {log}"


rule table:
    input:
        [job.output for job in PLAN.jobs if job.kind in ("data", "teacher", "cohort", "tune")],
    output:
        f"tables/{PLAN.suite.name}.md",
        f"tables/{PLAN.suite.name}.tex",
        report(
            f"tables/{PLAN.suite.name}.html",
            caption="../report/table.rst",
            category="tables",
            labels={"suite": PLAN.suite.name},
        ),
        f"tables/{PLAN.suite.name}.csv",
    log:
        f"{HOME}/logs/table.log",
    params:
        suite=SUITE,
        code=planning.report_code("jobs.py", "tables.py", "page.py", "stats.py", "results.py"),
        job_keys=[job.key for job in PLAN.jobs if job.runs],
    shell:
        "kdbench table {params.suite} 2>&1 | tee {log}"


rule figure:
    input:
        [job.output for job in PLAN.jobs],
    output:
        report(
            directory(f"{HOME}/figures"),
            caption="../report/figure.rst",
            category="{block}",
            subcategory=view_of,
            patterns=[
                "{block,[^/]+}-{kind,[a-z]+}.svg",
                "{block,[^/]+}/by-{view}/{shown}-{band,low|high}.svg",
            ],
            labels=labels_of,
        ),
    log:
        f"{HOME}/logs/figure.log",
    params:
        suite=SUITE,
        code=planning.report_code("jobs.py", "figures.py", "stats.py", "results.py"),
        job_keys=[job.key for job in PLAN.jobs if job.runs],
    shell:
        "kdbench figure {params.suite} --out {output} 2>&1 | tee {log}"
