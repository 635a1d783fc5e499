# in: nothing, or a folder that the user has; out: results/{dataset}/splits/*.csv


rule dataset:
    output:
        manifest="results/{dataset}/splits/source.json",
        provenance="results/{dataset}/splits/source.provenance.json",
    log:
        "logs/{dataset}/splits/source.log",
    localrule: True
    conda:
        "../../environment.yml"
    params:
        recipe=canonical(PLAN.data),
        code=code("fetch_dataset.py"),
    script:
        "../scripts/fetch_dataset.py"


rule splits:
    input:
        manifest=rules.dataset.output.manifest,
    output:
        train=split("train"),
        val=split("val"),
        classes="results/{dataset}/splits/classes.txt",
        skipped="results/{dataset}/splits/skipped.csv",
        provenance="results/{dataset}/splits/provenance.json",
    log:
        "logs/{dataset}/splits/splits.log",
    localrule: True
    conda:
        "../../environment.yml"
    params:
        recipe=canonical(PLAN.data),
        code=code("write_splits.py"),
        folder=subpath(output.classes, parent=True),
    script:
        "../scripts/write_splits.py"
