# Files of the user are no inputs but a key: Snakemake would read the braces in a name as wildcards, and miss files that
# are on another machine. `update` leaves the packed data where they are; the job looks whether they are still right.
rule data:
    output:
        update("results/data/{folder}/meta.json"),
    log:
        f"{HOME}/logs/data/{{folder}}.log",
    params:
        suite=lambda w: SUITE,
        name=lambda w: PLAN.job("data", w.folder).data,
        files=lambda w: DATA_FILES[w.folder],
    shell:
        "kdbench data {params.suite:q} {params.name:q} --job {wildcards.folder:q} 2>&1 | tee {log}"
