# in: metrics; out: results/{dataset}/tables/{table}.csv and .md


rule table:
    input:
        metrics=metrics_of_table,
    output:
        csv="results/{dataset}/tables/{recipe}.csv",
        markdown="results/{dataset}/tables/{recipe}.md",
        provenance="results/{dataset}/tables/{recipe}.provenance.json",
    log:
        "logs/{dataset}/tables/{recipe}.log",
    localrule: True
    conda:
        "../../environment.yml"
    params:
        recipe=recipe("tables"),
        code=code("write_table.py"),
    script:
        "../scripts/write_table.py"
