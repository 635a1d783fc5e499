# in: results/{dataset}/splits/*.csv, data/weights; out: results/{dataset}/classifiers/{recipe}/


rule classifier:
    input:
        split=ancient(split("train")),
        split_made=SPLITS_MADE,
        weights=ancient(upstream("classifiers", "weights", "data/weights/{name}.safetensors")),
        weights_made=upstream("classifiers", "weights", "data/weights/{name}.provenance.json"),
    output:
        model="results/{dataset}/classifiers/{recipe}/model.safetensors",
        description="results/{dataset}/classifiers/{recipe}/model.json",
        history="results/{dataset}/classifiers/{recipe}/history.csv",
        provenance="results/{dataset}/classifiers/{recipe}/provenance.json",
    log:
        "logs/{dataset}/classifiers/{recipe}.log",
    benchmark:
        "logs/{dataset}/classifiers/{recipe}.tsv"
    conda:
        "../../environment.yml"
    threads: PLAN.execution.threads
    resources:
        gpu=PLAN.execution.processes,
        mem_mb=growing(16000),
        runtime=growing(1440),
    params:
        recipe=recipe("classifiers"),
        code=code("train_classifier.py", recipe("classifiers")),
        folder=subpath(output.model, parent=True),
    script:
        "../scripts/train_classifier.py"
