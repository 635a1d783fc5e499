# in: seeds and affinities; out: results/{dataset}/pseudo_labels/{recipe}/{image_id}.png


rule pseudo_label_shard:
    input:
        split=split("train"),
        maps=upstream("pseudo_labels", "seeds", "results/{dataset}/seeds/{name}/maps.npz"),
        model=upstream("pseudo_labels", "affinity", "results/{dataset}/affinities/{name}/model.safetensors"),
        description=upstream("pseudo_labels", "affinity", "results/{dataset}/affinities/{name}/model.json"),
    output:
        masks=temp("results/{dataset}/pseudo_labels/{recipe}.shards/{shard}.npz"),
    params:
        recipe=recipe("pseudo_labels"),
        code=code("make_pseudo_labels.py"),
    log:
        "logs/{dataset}/pseudo_labels/{recipe}/{shard}.log",
    benchmark:
        "logs/{dataset}/pseudo_labels/{recipe}/{shard}.tsv"
    threads: 16
    resources:
        gpu=1,
        mem_mb=8000,
        runtime=240,
    script:
        "../scripts/make_pseudo_labels.py"


rule pseudo_labels:
    input:
        split=split("train"),
        shards=expand("results/{{dataset}}/pseudo_labels/{{recipe}}.shards/{shard}.npz", shard=SHARDS),
    output:
        masks=directory("results/{dataset}/pseudo_labels/{recipe}"),
    params:
        code=code("merge_masks.py"),
    log:
        "logs/{dataset}/pseudo_labels/{recipe}/merge.log",
    resources:
        mem_mb=4000,
        runtime=60,
    script:
        "../scripts/merge_masks.py"
