# in: everything above; out: results/{dataset}/report.html, the results as text, and figures/


rule figures:
    input:
        **MADE,
    output:
        train=report(
            directory(RESULTS / "figures" / PLAN.data.train),
            patterns=["{image_id}.png"],
            caption="../report/image.rst",
            category="Images",
            subcategory=PLAN.data.train,
        ),
        val=report(
            directory(RESULTS / "figures" / PLAN.data.val),
            patterns=["{image_id}.png"],
            caption="../report/image.rst",
            category="Images",
            subcategory=PLAN.data.val,
        ),
        curves=report(
            RESULTS / "figures" / "threshold_curves.png", caption="../report/threshold_curves.rst", category="Results"
        ),
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
    script:
        "../scripts/write_figures.py"


rule attention_figures:
    input:
        split=ancient(split("train")),
        split_made=SPLITS_MADE,
        model=ancient("results/{dataset}/classifiers/{recipe}/model.safetensors"),
        model_made="results/{dataset}/classifiers/{recipe}/provenance.json",
        description="results/{dataset}/classifiers/{recipe}/model.json",
    output:
        pictures=report(
            directory("results/{dataset}/figures/attention/{recipe}"),
            patterns=["{image_id}.png"],
            caption="../report/attention.rst",
            category="Attention",
            subcategory="{recipe}",
        ),
        table="results/{dataset}/figures/attention/{recipe}.csv",
        provenance="results/{dataset}/figures/attention/{recipe}.provenance.json",
    log:
        "logs/{dataset}/figures/attention/{recipe}.log",
    conda:
        "../../environment.yml"
    threads: PLAN.execution.threads
    resources:
        gpu=1,
        mem_mb=growing(8000),
        runtime=growing(60),
    params:
        recipe=recipe("classifiers"),
        code=code("write_attention_figures.py"),
    script:
        "../scripts/write_attention_figures.py"


rule report:
    input:
        **MADE,
        attention=looked_into(f"results/{PLAN.dataset}/figures/attention/{{name}}.csv"),
        attention_made=looked_into(f"results/{PLAN.dataset}/figures/attention/{{name}}.provenance.json"),
        histories=[
            file
            for section in ("classifiers", "affinities", "segmenters")
            for file in made(section, f"results/{{dataset}}/{section}/{{name}}/history.csv")
        ],
        skipped=RESULTS / "splits" / "skipped.csv",
        sweeps=measured("layer_sweeps", sorted(PLAN.recipes["layer_sweeps"])),
        tables=made("tables", "results/{dataset}/tables/{name}.md"),
    output:
        report=report(RESULTS / "report.html", caption="../report/report.rst", category="Results"),
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
