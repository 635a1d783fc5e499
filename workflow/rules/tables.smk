# in: metrics; out: results/{dataset}/tables/{table}.csv and .md


def measured(stage, names):
    role = "val" if stage in ("classifiers", "predictions") else "train"
    return [f"results/{PLAN.dataset}/metrics/{stage}/{name}.{getattr(PLAN.data, role)}.json" for name in names]


def metrics_of_table(wildcards):
    rows = PLAN.recipe("tables", wildcards.recipe).rows
    stages = ("seeds", "pseudo_labels", "predictions")
    named = {stage: {getattr(row, stage) for row in rows} - {None} for stage in stages}
    return [file for stage in stages for file in measured(stage, sorted(named[stage]))]


rule table:
    input:
        metrics=metrics_of_table,
    output:
        csv="results/{dataset}/tables/{recipe}.csv",
        markdown="results/{dataset}/tables/{recipe}.md",
    params:
        recipe=recipe("tables"),
        code=code("write_table.py"),
    log:
        "logs/{dataset}/tables/{recipe}.log",
    localrule: True
    script:
        "../scripts/write_table.py"
