# in: seeds; out: results/{dataset}/affinities/{recipe}/: confident labels, and the PSA network learnt from them


rule confident_label_shard:
    input:
        split=ancient(split("train")),
        split_made=SPLITS_MADE,
        maps=ancient(upstream("affinities", "seeds", "results/{dataset}/seeds/{name}/maps.npz")),
        maps_made=upstream("affinities", "seeds", "results/{dataset}/seeds/{name}/provenance.json"),
    output:
        labels=temp("results/{dataset}/affinities/{recipe}/shards/{shard}.npz"),
        provenance=temp("results/{dataset}/affinities/{recipe}/shards/{shard}.json"),
    log:
        "logs/{dataset}/affinities/{recipe}/{shard}.log",
    benchmark:
        "logs/{dataset}/affinities/{recipe}/{shard}.tsv"
    conda:
        "../../environment.yml"
    threads: PLAN.execution.threads
    resources:
        mem_mb=growing(8000),
        runtime=growing(240),
    params:
        recipe=recipe("affinities", "seeds", "labels"),
        code=code("make_confident_labels.py"),
    script:
        "../scripts/make_confident_labels.py"


rule confident_labels:
    input:
        split=ancient(split("train")),
        split_made=SPLITS_MADE,
        maps=ancient(rules.confident_label_shard.input.maps),
        maps_made=rules.confident_label_shard.input.maps_made,
        shards=expand("results/{{dataset}}/affinities/{{recipe}}/shards/{shard}.npz", shard=SHARDS),
        parts=expand("results/{{dataset}}/affinities/{{recipe}}/shards/{shard}.json", shard=SHARDS),
    output:
        merged="results/{dataset}/affinities/{recipe}/labels.npz",
        provenance="results/{dataset}/affinities/{recipe}/labels.provenance.json",
    log:
        "logs/{dataset}/affinities/{recipe}/merge.log",
    conda:
        "../../environment.yml"
    resources:
        mem_mb=growing(4000),
        runtime=growing(60),
    params:
        recipe=recipe("affinities", "seeds", "labels"),
        code=code("merge_arrays.py"),
    script:
        "../scripts/merge_arrays.py"


rule affinity:
    input:
        split=ancient(split("train")),
        split_made=SPLITS_MADE,
        labels=ancient(rules.confident_labels.output.merged),
        labels_made=rules.confident_labels.output.provenance,
        weights=ancient(upstream("affinities", "weights", "data/weights/{name}.safetensors")),
        weights_made=upstream("affinities", "weights", "data/weights/{name}.provenance.json"),
    output:
        model="results/{dataset}/affinities/{recipe}/model.safetensors",
        description="results/{dataset}/affinities/{recipe}/model.json",
        history="results/{dataset}/affinities/{recipe}/history.csv",
        provenance="results/{dataset}/affinities/{recipe}/provenance.json",
    log:
        "logs/{dataset}/affinities/{recipe}.log",
    benchmark:
        "logs/{dataset}/affinities/{recipe}.tsv"
    conda:
        "../../environment.yml"
    threads: PLAN.execution.threads
    resources:
        gpu=PLAN.execution.processes,
        mem_mb=growing(16000),
        runtime=growing(720),
    params:
        recipe=recipe("affinities"),
        code=code("train_affinity.py", recipe("affinities")),
        folder=subpath(output.model, parent=True),
    script:
        "../scripts/train_affinity.py"
