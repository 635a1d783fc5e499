# in: a segmenter, seeds and their classifier, the images of a split; out: results/{dataset}/predictions/{recipe}/{split}/{image_id}.png


rule prediction_shard:
    input:
        split=ancient("results/{dataset}/splits/{split}.csv"),
        split_made=split_made,
        model=ancient(upstream("predictions", "segmenter", "results/{dataset}/segmenters/{name}/model.safetensors")),
        model_made=upstream("predictions", "segmenter", "results/{dataset}/segmenters/{name}/provenance.json"),
        description=upstream("predictions", "segmenter", "results/{dataset}/segmenters/{name}/model.json"),
        maps=ancient(upstream("predictions", "labels.seeds", "results/{dataset}/seeds/{name}/maps.npz")),
        maps_made=upstream("predictions", "labels.seeds", "results/{dataset}/seeds/{name}/provenance.json"),
        classifier=ancient(
            upstream("predictions", "labels.seeds.classifier", "results/{dataset}/classifiers/{name}/model.safetensors")
        ),
        classifier_made=upstream(
            "predictions", "labels.seeds.classifier", "results/{dataset}/classifiers/{name}/provenance.json"
        ),
        classifier_description=upstream(
            "predictions", "labels.seeds.classifier", "results/{dataset}/classifiers/{name}/model.json"
        ),
        affinity=ancient(upstream("predictions", "labels.affinity", "results/{dataset}/affinities/{name}/model.safetensors")),
        affinity_made=upstream("predictions", "labels.affinity", "results/{dataset}/affinities/{name}/provenance.json"),
        affinity_description=upstream("predictions", "labels.affinity", "results/{dataset}/affinities/{name}/model.json"),
    output:
        masks=temp("results/{dataset}/predictions/{recipe}/{split}.shards/{shard}.npz"),
        provenance=temp("results/{dataset}/predictions/{recipe}/{split}.shards/{shard}.json"),
    log:
        "logs/{dataset}/predictions/{recipe}/{split}/{shard}.log",
    benchmark:
        "logs/{dataset}/predictions/{recipe}/{split}/{shard}.tsv"
    conda:
        "../../environment.yml"
    threads: PLAN.execution.threads
    resources:
        gpu=1,
        mem_mb=growing(8000),
        runtime=growing(240),
    params:
        recipe=recipe("predictions"),
        code=code("predict.py", recipe("predictions")),
    script:
        "../scripts/predict.py"


rule predictions:
    input:
        split=ancient("results/{dataset}/splits/{split}.csv"),
        split_made=split_made,
        model=ancient(rules.prediction_shard.input.model),
        model_made=rules.prediction_shard.input.model_made,
        maps=ancient(rules.prediction_shard.input.maps),
        maps_made=rules.prediction_shard.input.maps_made,
        classifier=ancient(rules.prediction_shard.input.classifier),
        classifier_made=rules.prediction_shard.input.classifier_made,
        affinity=ancient(rules.prediction_shard.input.affinity),
        affinity_made=rules.prediction_shard.input.affinity_made,
        shards=expand("results/{{dataset}}/predictions/{{recipe}}/{{split}}.shards/{shard}.npz", shard=SHARDS),
        parts=expand("results/{{dataset}}/predictions/{{recipe}}/{{split}}.shards/{shard}.json", shard=SHARDS),
    output:
        provenance="results/{dataset}/predictions/{recipe}/{split}/provenance.json",
    log:
        "logs/{dataset}/predictions/{recipe}/{split}/merge.log",
    conda:
        "../../environment.yml"
    resources:
        mem_mb=growing(4000),
        runtime=growing(60),
    params:
        recipe=recipe("predictions"),
        code=code("merge_masks.py"),
        folder=subpath(output.provenance, parent=True),
    script:
        "../scripts/merge_masks.py"
