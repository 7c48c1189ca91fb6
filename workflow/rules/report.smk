# What people read. Each of these starts anew when a result below it or the version of what draws it changes.


rule stages:
    input:
        lambda w: PLAN.job("stages", f"{w.block}/{w.pair}").inputs,
    output:
        f"{HOME}/similarity/{{block}}/{{pair}}.json",
    log:
        f"{HOME}/logs/stages/{{block}}/{{pair}}.log",
    threads: PLAN.suite.threads
    params:
        suite=lambda w: SUITE,
        version=planning.report_version("similarity", "frequency"),
        methods=lambda w: planning.measured_methods(PLAN.suite, w.block),
    shell:
        "kdbench similarity {params.suite:q} {wildcards.block}/{wildcards.pair} --kind stages 2>&1 | tee {log}"


rule channels:
    input:
        lambda w: PLAN.job("channels", f"{w.block}/{w.pair}").inputs,
    output:
        f"{HOME}/channels/{{block}}/{{pair}}.json",
    log:
        f"{HOME}/logs/channels/{{block}}/{{pair}}.log",
    threads: PLAN.suite.threads
    params:
        suite=lambda w: SUITE,
        version=planning.report_version("similarity", "frequency"),
        methods=lambda w: planning.measured_methods(PLAN.suite, w.block),
    shell:
        "kdbench similarity {params.suite:q} {wildcards.block}/{wildcards.pair} --kind channels 2>&1 | tee {log}"


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
        f"tables/{PLAN.suite.name}.bib",
        directory(f"tables/{PLAN.suite.name}"),
    log:
        f"{HOME}/logs/table.log",
    params:
        suite=lambda w: SUITE,
        text=planning.report_text(PLAN.suite),
        version=planning.report_version("tables"),
        job_keys=[job.key for job in PLAN.jobs if job.runs],
    shell:
        "kdbench table {params.suite:q} 2>&1 | tee {log}"


rule figure:
    input:
        [job.output for job in PLAN.jobs],
    output:
        report(
            directory(f"{HOME}/figures"),
            caption="../report/figure.rst",
            category="{block}",
            subcategory=planning.figure_place,
            patterns=[
                "{block,[^/]+}-{kind,[a-z]+}.svg",
                "supplement/{block,[^/]+}-{kind,[a-z]+}.svg",
                "{block,[^/]+}/by-{view}/{shown}-{band,low|high}.svg",
            ],
            labels=lambda w: planning.figure_labels(PLAN.suite, w),
        ),
    log:
        f"{HOME}/logs/figure.log",
    threads: 4
    params:
        suite=lambda w: SUITE,
        text=planning.report_text(PLAN.suite),
        version=planning.report_version("figures"),
        job_keys=[job.key for job in PLAN.jobs if job.runs],
    shell:
        "kdbench figure {params.suite:q} --out {output} --processes {threads} 2>&1 | tee {log}"
