# in: seeds, affinities, a segmenter; out: results/{dataset}/pseudo_labels/{recipe}/{image_id}.png


SELF_LABELS = [name for name, item in PLAN.recipes["pseudo_labels"].items() if item.segmenter]  # self-training


rule pseudo_label_shard:
    input:
        split=ancient(split("train")),
        split_made=SPLITS_MADE,
        maps=ancient(upstream("pseudo_labels", "seeds", "results/{dataset}/seeds/{name}/maps.npz")),
        maps_made=upstream("pseudo_labels", "seeds", "results/{dataset}/seeds/{name}/provenance.json"),
        model=ancient(upstream("pseudo_labels", "affinity", "results/{dataset}/affinities/{name}/model.safetensors")),
        model_made=upstream("pseudo_labels", "affinity", "results/{dataset}/affinities/{name}/provenance.json"),
        description=upstream("pseudo_labels", "affinity", "results/{dataset}/affinities/{name}/model.json"),
    output:
        masks=temp("results/{dataset}/pseudo_labels/{recipe}.shards/{shard}.npz"),
        provenance=temp("results/{dataset}/pseudo_labels/{recipe}.shards/{shard}.json"),
    log:
        "logs/{dataset}/pseudo_labels/{recipe}/{shard}.log",
    benchmark:
        "logs/{dataset}/pseudo_labels/{recipe}/{shard}.tsv"
    wildcard_constraints:
        recipe=one_of(sorted({*PLAN.recipes["pseudo_labels"]} - {*SELF_LABELS})),
    conda:
        "../../environment.yml"
    threads: PLAN.execution.threads
    resources:
        gpu=1,
        mem_mb=growing(8000),
        runtime=growing(240),
    params:
        recipe=recipe("pseudo_labels"),
        code=code("make_pseudo_labels.py"),
    script:
        "../scripts/make_pseudo_labels.py"


rule self_label_shard:
    input:
        split=ancient(split("train")),
        split_made=SPLITS_MADE,
        maps=ancient(rules.pseudo_label_shard.input.maps),
        maps_made=rules.pseudo_label_shard.input.maps_made,
        model=ancient(rules.pseudo_label_shard.input.model),
        model_made=rules.pseudo_label_shard.input.model_made,
        description=rules.pseudo_label_shard.input.description,
        segmenter=ancient(upstream("pseudo_labels", "segmenter", "results/{dataset}/segmenters/{name}/model.safetensors")),
        segmenter_made=upstream("pseudo_labels", "segmenter", "results/{dataset}/segmenters/{name}/provenance.json"),
        segmenter_description=upstream("pseudo_labels", "segmenter", "results/{dataset}/segmenters/{name}/model.json"),
    output:
        masks=temp("results/{dataset}/pseudo_labels/{recipe}.shards/{shard}.npz"),
        provenance=temp("results/{dataset}/pseudo_labels/{recipe}.shards/{shard}.json"),
    log:
        "logs/{dataset}/pseudo_labels/{recipe}/{shard}.log",
    benchmark:
        "logs/{dataset}/pseudo_labels/{recipe}/{shard}.tsv"
    wildcard_constraints:
        recipe=one_of(SELF_LABELS),
    conda:
        "../../environment.yml"
    threads: PLAN.execution.threads
    resources:
        gpu=1,
        mem_mb=growing(8000),
        runtime=growing(240),
    params:
        recipe=recipe("pseudo_labels"),
        code=code("make_self_labels.py"),
    script:
        "../scripts/make_self_labels.py"


rule pseudo_labels:
    input:
        split=ancient(split("train")),
        split_made=SPLITS_MADE,
        maps=ancient(rules.pseudo_label_shard.input.maps),
        maps_made=rules.pseudo_label_shard.input.maps_made,
        model=ancient(rules.pseudo_label_shard.input.model),
        model_made=rules.pseudo_label_shard.input.model_made,
        segmenter=ancient(rules.self_label_shard.input.segmenter),
        segmenter_made=rules.self_label_shard.input.segmenter_made,
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
