# in: everything above; out: results/{dataset}/report.html, the results as text, and figures/


rule figures:
    input:
        **MADE,
    output:
        provenance=RESULTS / "figures" / "provenance.json",
    log:
        Path("logs") / PLAN.dataset / "figures.log",
    conda:
        "../../environment.yml"
    resources:
        mem_mb=growing(4000),
        runtime=growing(60),
    params:
        recipe=SHOWN,
        code=code("write_figures.py"),
        pseudo_labels=folders(MADE["pseudo_labels"]),
        predictions=folders(MADE["predictions"]),
        folder=subpath(output.provenance, parent=True),
    script:
        "../scripts/write_figures.py"


rule report:
    input:
        **MADE,
        histories=[
            file
            for section in ("classifiers", "affinities", "segmenters")
            for file in made(section, f"results/{{dataset}}/{section}/{{name}}/history.csv")
        ],
        skipped=RESULTS / "splits" / "skipped.csv",
        sweeps=measured("layer_sweeps", sorted(PLAN.recipes["layer_sweeps"])),
        tables=made("tables", "results/{dataset}/tables/{name}.md"),
    output:
        report=report(RESULTS / "report.html", category="results"),
        summary=RESULTS / "summary.txt",
        provenance=RESULTS / "report.provenance.json",
    log:
        Path("logs") / PLAN.dataset / "report.log",
    conda:
        "../../environment.yml"
    resources:
        mem_mb=growing(4000),
        runtime=growing(60),
    params:
        recipe=SHOWN,
        dataset=PLAN.dataset,
        code=code("write_report.py"),
        pseudo_labels=folders(MADE["pseudo_labels"]),
        predictions=folders(MADE["predictions"]),
    script:
        "../scripts/write_report.py"
