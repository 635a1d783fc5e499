# in: nothing, or a folder that the user has; out: results/{dataset}/splits/*.csv, and true_masks where they are drawn


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
        recipe=data_recipe,
        code=code("fetch_dataset.py", data_recipe),
        seen=data_seen,
    script:
        "../scripts/fetch_dataset.py"


rule true_mask_shard:
    input:
        manifest="results/{dataset}/splits/source.json",
    output:
        masks=temp("results/{dataset}/true_masks.shards/{shard}.npz"),
        provenance=temp("results/{dataset}/true_masks.shards/{shard}.json"),
    log:
        "logs/{dataset}/true_masks/{shard}.log",
    benchmark:
        "logs/{dataset}/true_masks/{shard}.tsv"
    conda:
        "../../environment.yml"
    resources:
        mem_mb=growing(4000),
        runtime=growing(120),
    params:
        recipe=data_recipe,
        code=code("draw_true_masks.py", data_recipe),
    script:
        "../scripts/draw_true_masks.py"


rule true_masks:
    input:
        manifest="results/{dataset}/splits/source.json",
        shards=expand("results/{{dataset}}/true_masks.shards/{shard}.npz", shard=SHARDS),
        parts=expand("results/{{dataset}}/true_masks.shards/{shard}.json", shard=SHARDS),
    output:
        provenance="results/{dataset}/true_masks/provenance.json",
    log:
        "logs/{dataset}/true_masks/merge.log",
    conda:
        "../../environment.yml"
    resources:
        mem_mb=growing(4000),
        runtime=growing(60),
    params:
        recipe=data_recipe,
        code=code("merge_true_masks.py"),
        folder=subpath(output.provenance, parent=True),
    script:
        "../scripts/merge_true_masks.py"


rule splits:
    input:
        manifest="results/{dataset}/splits/source.json",
        masks_made="results/{dataset}/true_masks/provenance.json" if PLAN.data.masks_drawn else [],
    output:
        tables=[f"results/{{dataset}}/splits/{name}.csv" for name in PLAN.data.splits_made],
        classes="results/{dataset}/splits/classes.txt",
        skipped="results/{dataset}/splits/skipped.csv",
        provenance="results/{dataset}/splits/provenance.json",
    log:
        "logs/{dataset}/splits/splits.log",
    localrule: True
    conda:
        "../../environment.yml"
    params:
        recipe=data_recipe,
        code=code("write_splits.py", data_recipe),
        seen=data_seen,
        drawn=f"results/{PLAN.dataset}/true_masks" if PLAN.data.masks_drawn else None,
        folder=subpath(output.classes, parent=True),
    script:
        "../scripts/write_splits.py"
