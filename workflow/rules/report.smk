# in: everything above; out: results/{dataset}/report.html and the results as text

SECTIONS_MEASURED = ("classifiers", "seeds", "pseudo_labels", "predictions")


rule report:
    input:
        train=RESULTS / "splits" / f"{PLAN.data.train}.csv",
        val=RESULTS / "splits" / f"{PLAN.data.val}.csv",
        metrics=[file for section in SECTIONS_MEASURED for file in measured(section, PLAN.recipes[section])],
        seeds=made("seeds", "results/{dataset}/seeds/{name}/maps.npz").values(),
        pseudo_labels=made("pseudo_labels", "results/{dataset}/pseudo_labels/{name}").values(),
        predictions=made("predictions", f"results/{{dataset}}/predictions/{{name}}/{PLAN.data.val}").values(),
        histories=[
            file
            for section in ("classifiers", "affinities", "segmenters")
            for file in made(section, f"results/{{dataset}}/{section}/{{name}}/history.csv").values()
        ],
        tables=made("tables", "results/{dataset}/tables/{name}.md").values(),
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
