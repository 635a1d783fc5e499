# in: seeds and affinities; out: results/{dataset}/pseudo_labels/{recipe}/{image_id}.png


rule pseudo_label_shard:
    input:
        split=split("train"),
        maps=upstream("pseudo_labels", "seeds", "results/{dataset}/seeds/{name}/maps.npz"),
        model=upstream("pseudo_labels", "affinity", "results/{dataset}/affinities/{name}/model.safetensors"),
        description=upstream("pseudo_labels", "affinity", "results/{dataset}/affinities/{name}/model.json"),
    output:
        masks=temp("results/{dataset}/pseudo_labels/{recipe}.shards/{shard}.npz"),
        provenance=temp("results/{dataset}/pseudo_labels/{recipe}.shards/{shard}.json"),
    log:
        "logs/{dataset}/pseudo_labels/{recipe}/{shard}.log",
    benchmark:
        "logs/{dataset}/pseudo_labels/{recipe}/{shard}.tsv"
    conda:
        "../../environment.yml"
    threads: 16
    resources:
        gpu=1,
        mem_mb=growing(8000),
        runtime=growing(240),
    params:
        recipe=recipe("pseudo_labels"),
        code=code("make_pseudo_labels.py"),
    script:
        "../scripts/make_pseudo_labels.py"


rule pseudo_labels:
    input:
        split=split("train"),
        maps=rules.pseudo_label_shard.input.maps,
        model=rules.pseudo_label_shard.input.model,
        shards=expand("results/{{dataset}}/pseudo_labels/{{recipe}}.shards/{shard}.npz", shard=SHARDS),
        parts=expand("results/{{dataset}}/pseudo_labels/{{recipe}}.shards/{shard}.json", shard=SHARDS),
    output:
        provenance="results/{dataset}/pseudo_labels/{recipe}/provenance.json",
    log:
        "logs/{dataset}/pseudo_labels/{recipe}/merge.log",
    conda:
        "../../environment.yml"
    resources:
        mem_mb=growing(4000),
        runtime=growing(60),
    params:
        recipe=recipe("pseudo_labels"),
        code=code("merge_masks.py"),
        folder=subpath(output.provenance, parent=True),
    script:
        "../scripts/merge_masks.py"
