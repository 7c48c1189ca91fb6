rule data:
    input:
        lambda w: DATA_FILES[w.folder],
    output:
        "results/data/{folder}/meta.json",
    log:
        f"{HOME}/logs/data/{{folder}}.log",
    params:
        suite=SUITE,
        name=lambda w: PLAN.job("data", w.folder).data,
    shell:
        "kdbench data {params.suite:q} {params.name:q} 2>&1 | tee {log}"
