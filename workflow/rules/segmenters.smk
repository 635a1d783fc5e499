# in: pseudo labels; out: results/{dataset}/segmenters/{recipe}/


rule segmenter:
    input:
        split=ancient(split("train")),
        split_made=SPLITS_MADE,
        masks=upstream("segmenters", "labels", "results/{dataset}/pseudo_labels/{name}/provenance.json"),
        weights=ancient(upstream("segmenters", "weights", "data/weights/{name}.safetensors")),
        weights_made=upstream("segmenters", "weights", "data/weights/{name}.provenance.json"),
        classifier=ancient(upstream("segmenters", "classifier", "results/{dataset}/classifiers/{name}/model.safetensors")),
        classifier_made=upstream("segmenters", "classifier", "results/{dataset}/classifiers/{name}/provenance.json"),
    output:
        model="results/{dataset}/segmenters/{recipe}/model.safetensors",
        description="results/{dataset}/segmenters/{recipe}/model.json",
        history="results/{dataset}/segmenters/{recipe}/history.csv",
        provenance="results/{dataset}/segmenters/{recipe}/provenance.json",
    log:
        "logs/{dataset}/segmenters/{recipe}.log",
    benchmark:
        "logs/{dataset}/segmenters/{recipe}.tsv"
    conda:
        "../../environment.yml"
    threads: PLAN.execution.threads
    resources:
        gpu=PLAN.execution.processes,
        mem_mb=growing(24000),
        runtime=growing(2880),
    params:
        recipe=recipe("segmenters"),
        code=code("train_segmenter.py", recipe("segmenters")),
        masks=subpath(input.masks, parent=True),
        folder=subpath(output.model, parent=True),
    script:
        "../scripts/train_segmenter.py"
