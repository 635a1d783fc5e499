# in: everything above; out: results/{dataset}/report.html, the results as text, and figures/


rule figures:
    input:
        **MADE,
    output:
        folder=directory(RESULTS / "figures"),
    log:
        Path("logs") / PLAN.dataset / "figures.log",
    conda:
        "../../environment.yml"
    params:
        code=code("write_figures.py"),
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
        tables=made("tables", "results/{dataset}/tables/{name}.md"),
    output:
        report=RESULTS / "report.html",
        summary=RESULTS / "summary.txt",
    log:
        Path("logs") / PLAN.dataset / "report.log",
    conda:
        "../../environment.yml"
    params:
        dataset=PLAN.dataset,
        code=code("write_report.py"),
    script:
        "../scripts/write_report.py"
