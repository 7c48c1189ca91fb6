# A job's key changes with its config and with the code that its numbers depend on: that is its reason to run again.
# It then trains only those of its runs whose own key is new. Long jobs first: the short ones of the report fill the end.


rule teacher:
    input:
        lambda w: PLAN.job("teacher", f"{w.model}/{w.part}").inputs,
    output:
        f"{HOME}/teachers/{{model}}/{{part}}.json",
    log:
        f"{HOME}/logs/teacher/{{model}}/{{part}}.log",
    priority: 2
    threads: PLAN.suite.threads
    resources:
        gpu=planning.gpus(PLAN.suite),
        mem_mb=lambda w, attempt: planning.memory_mb(PLAN, PLAN.job("teacher", f"{w.model}/{w.part}"), attempt),
        runtime=lambda w, attempt: planning.minutes(PLAN, PLAN.job("teacher", f"{w.model}/{w.part}"), attempt),
    params:
        suite=lambda w: SUITE,
        key=lambda w: PLAN.job("teacher", f"{w.model}/{w.part}").key,
    shell:
        "kdbench teacher {params.suite:q} {wildcards.model} --job {wildcards.part}"
        " --expect {params.key} --threads {threads} 2>&1 | tee {log}"


if PLAN.of("tune"):

    rule tune:
        input:
            PLAN.job("tune", "tuned").inputs,
        output:
            tuned_file(PLAN.suite),
        log:
            f"{HOME}/logs/tune.log",
        params:
            suite=lambda w: SUITE,
            key=PLAN.job("tune", "tuned").key,
        shell:
            "kdbench tune {params.suite:q} 2>&1 | tee {log}"


rule cohort:
    input:
        lambda w: PLAN.job("cohort", f"{w.pair}/{w.part}").inputs,
    output:
        f"{HOME}/cohorts/{{pair}}/{{part}}.json",
    log:
        f"{HOME}/logs/cohort/{{pair}}/{{part}}.log",
    priority: 1
    threads: PLAN.suite.threads
    resources:
        gpu=planning.gpus(PLAN.suite),
        mem_mb=lambda w, attempt: planning.memory_mb(PLAN, PLAN.job("cohort", f"{w.pair}/{w.part}"), attempt),
        runtime=lambda w, attempt: planning.minutes(PLAN, PLAN.job("cohort", f"{w.pair}/{w.part}"), attempt),
    params:
        suite=lambda w: SUITE,
        key=lambda w: PLAN.job("cohort", f"{w.pair}/{w.part}").key,
    shell:
        "kdbench distill {params.suite:q} {wildcards.pair} --job {wildcards.part}"
        " --expect {params.key} --threads {threads} 2>&1 | tee {log}"
