# What people read. Each of these starts anew when a result below it or the code that draws it changes.


rule stages:
    input:
        lambda w: PLAN.job("stages", w.pair).inputs,
    output:
        f"{HOME}/similarity/{{pair}}.json",
    log:
        f"{HOME}/logs/stages/{{pair}}.log",
    threads: PLAN.suite.threads
    params:
        suite=SUITE,
        code=planning.report_code("measure.py", "similarity.py", "frequency.py"),
    shell:
        "kdbench similarity {params.suite} {wildcards.pair} --kind stages 2>&1 | tee {log}"


rule channels:
    input:
        lambda w: PLAN.job("channels", w.pair).inputs,
    output:
        f"{HOME}/channels/{{pair}}.json",
    log:
        f"{HOME}/logs/channels/{{pair}}.log",
    threads: PLAN.suite.threads
    params:
        suite=SUITE,
        code=planning.report_code("measure.py", "similarity.py", "frequency.py"),
    shell:
        "kdbench similarity {params.suite} {wildcards.pair} --kind channels 2>&1 | tee {log}"


rule table:
    input:
        [job.output for job in PLAN.jobs if job.kind in ("data", "teacher", "cohort")],
    output:
        report(
            f"tables/{PLAN.suite.name}.md",
            caption="../report/table.rst",
            category=PLAN.suite.name,
            labels={"what": "table"},
        ),
        f"tables/{PLAN.suite.name}.tex",
        f"tables/{PLAN.suite.name}.csv",
    log:
        f"{HOME}/logs/table.log",
    params:
        suite=SUITE,
        code=planning.report_code("tables.py", "stats.py", "results.py"),
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
            category=PLAN.suite.name,
            patterns=["{name}.svg"],
            labels={"what": "{name}"},
        ),
    log:
        f"{HOME}/logs/figure.log",
    params:
        suite=SUITE,
        code=planning.report_code("figures.py", "stats.py", "results.py"),
        job_keys=[job.key for job in PLAN.jobs if job.runs],
    shell:
        "kdbench figure {params.suite} --out {output} 2>&1 | tee {log}"
