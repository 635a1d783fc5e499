# in: metrics; out: results/{dataset}/tables/{table}.csv and .md, figures/{sweep}.csv and .png


rule table:
    input:
        metrics=metrics_of_table,
    output:
        csv=report("results/{dataset}/tables/{recipe}.csv", category="tables"),
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


rule layer_figure:
    input:
        metrics=lambda wildcards: measured("layer_sweeps", [wildcards.recipe])[0],
    output:
        csv="results/{dataset}/figures/{recipe}.csv",
        picture="results/{dataset}/figures/{recipe}.png",
        provenance="results/{dataset}/figures/{recipe}.provenance.json",
    log:
        "logs/{dataset}/figures/{recipe}.log",
    localrule: True
    conda:
        "../../environment.yml"
    params:
        recipe=sweep_recipe,
        code=code("write_layer_figure.py"),
    script:
        "../scripts/write_layer_figure.py"
