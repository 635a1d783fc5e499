# in: what a stage made and the true masks; out: results/{dataset}/metrics/{stage}/{recipe}.{split}.json


rule measure_classifier:
    input:
        split=ancient("results/{dataset}/splits/{split}.csv"),
        split_made=SPLITS_MADE,
        model=ancient("results/{dataset}/classifiers/{recipe}/model.safetensors"),
        model_made="results/{dataset}/classifiers/{recipe}/provenance.json",
        description="results/{dataset}/classifiers/{recipe}/model.json",
    output:
        metrics="results/{dataset}/metrics/classifiers/{recipe}.{split}.json",
        provenance="results/{dataset}/metrics/classifiers/{recipe}.{split}.provenance.json",
    log:
        "logs/{dataset}/metrics/classifiers/{recipe}.{split}.log",
    conda:
        "../../environment.yml"
    threads: PLAN.execution.threads
    resources:
        gpu=1,
        mem_mb=growing(8000),
        runtime=growing(240),
    params:
        recipe=recipe("classifiers"),
        code=code("measure_classifier.py", recipe("classifiers")),
    script:
        "../scripts/measure_classifier.py"


rule measure_seeds:
    input:
        split=ancient("results/{dataset}/splits/{split}.csv"),
        split_made=SPLITS_MADE,
        maps=ancient("results/{dataset}/seeds/{recipe}/maps.npz"),
        maps_made="results/{dataset}/seeds/{recipe}/provenance.json",
    output:
        metrics="results/{dataset}/metrics/seeds/{recipe}.{split}.json",
        provenance="results/{dataset}/metrics/seeds/{recipe}.{split}.provenance.json",
    log:
        "logs/{dataset}/metrics/seeds/{recipe}.{split}.log",
    conda:
        "../../environment.yml"
    resources:
        mem_mb=growing(4000),
        runtime=growing(120),
    params:
        recipe=recipe("seeds"),
        code=code("measure_seeds.py"),
    script:
        "../scripts/measure_seeds.py"


rule measure_layer_sweep:
    input:
        split=ancient("results/{dataset}/splits/{split}.csv"),
        split_made=SPLITS_MADE,
        maps=ancient("results/{dataset}/layer_sweeps/{recipe}/maps.npz"),
        maps_made="results/{dataset}/layer_sweeps/{recipe}/provenance.json",
    output:
        metrics="results/{dataset}/metrics/layer_sweeps/{recipe}.{split}.json",
        provenance="results/{dataset}/metrics/layer_sweeps/{recipe}.{split}.provenance.json",
    log:
        "logs/{dataset}/metrics/layer_sweeps/{recipe}.{split}.log",
    conda:
        "../../environment.yml"
    resources:
        mem_mb=growing(4000),
        runtime=growing(120),
    params:
        recipe=sweep_recipe,
        code=code("measure_layer_sweep.py"),
    script:
        "../scripts/measure_layer_sweep.py"


rule measure_cost:
    input:
        split=ancient("results/{dataset}/splits/{split}.csv"),
        split_made=SPLITS_MADE,
    output:
        metrics="results/{dataset}/metrics/costs/{recipe}.{split}.json",
        provenance="results/{dataset}/metrics/costs/{recipe}.{split}.provenance.json",
    log:
        "logs/{dataset}/metrics/costs/{recipe}.{split}.log",
    conda:
        "../../environment.yml"
    threads: 16  # alone on a workstation: it is timed
    resources:
        gpu=1,
        mem_mb=growing(16000),
        runtime=growing(60),
    params:
        recipe=cost_recipe,
        code=code("measure_cost.py", cost_recipe),
    script:
        "../scripts/measure_cost.py"


rule measure_pseudo_labels:
    input:
        split=ancient("results/{dataset}/splits/{split}.csv"),
        split_made=SPLITS_MADE,
        masks="results/{dataset}/pseudo_labels/{recipe}/provenance.json",
    output:
        metrics="results/{dataset}/metrics/pseudo_labels/{recipe}.{split}.json",
        provenance="results/{dataset}/metrics/pseudo_labels/{recipe}.{split}.provenance.json",
    log:
        "logs/{dataset}/metrics/pseudo_labels/{recipe}.{split}.log",
    conda:
        "../../environment.yml"
    resources:
        mem_mb=growing(4000),
        runtime=growing(120),
    params:
        recipe=recipe("pseudo_labels"),
        stage="pseudo_labels",
        code=code("measure_masks.py"),
        masks=subpath(input.masks, parent=True),
    script:
        "../scripts/measure_masks.py"


rule measure_predictions:
    input:
        split=ancient("results/{dataset}/splits/{split}.csv"),
        split_made=SPLITS_MADE,
        masks="results/{dataset}/predictions/{recipe}/{split}/provenance.json",
    output:
        metrics="results/{dataset}/metrics/predictions/{recipe}.{split}.json",
        provenance="results/{dataset}/metrics/predictions/{recipe}.{split}.provenance.json",
    log:
        "logs/{dataset}/metrics/predictions/{recipe}.{split}.log",
    conda:
        "../../environment.yml"
    resources:
        mem_mb=growing(4000),
        runtime=growing(120),
    params:
        recipe=recipe("predictions"),
        stage="predictions",
        code=code("measure_masks.py"),
        masks=subpath(input.masks, parent=True),
    script:
        "../scripts/measure_masks.py"
