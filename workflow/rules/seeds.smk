# in: a classifier and the training images; out: results/{dataset}/seeds/{recipe}/maps.npz


rule seed_shard:
    input:
        split=ancient(split("train")),
        split_made=SPLITS_MADE,
        model=ancient(upstream("seeds", "classifier", "results/{dataset}/classifiers/{name}/model.safetensors")),
        model_made=upstream("seeds", "classifier", "results/{dataset}/classifiers/{name}/provenance.json"),
        description=upstream("seeds", "classifier", "results/{dataset}/classifiers/{name}/model.json"),
    output:
        maps=temp("results/{dataset}/seeds/{recipe}/shards/{shard}.npz"),
        provenance=temp("results/{dataset}/seeds/{recipe}/shards/{shard}.json"),
    log:
        "logs/{dataset}/seeds/{recipe}/{shard}.log",
    benchmark:
        "logs/{dataset}/seeds/{recipe}/{shard}.tsv"
    conda:
        "../../environment.yml"
    threads: PLAN.execution.threads
    resources:
        gpu=1,
        mem_mb=growing(8000),
        runtime=growing(240),
    params:
        recipe=recipe("seeds"),
        code=code("make_seeds.py", recipe("seeds")),
    script:
        "../scripts/make_seeds.py"


rule seeds:
    input:
        split=ancient(split("train")),
        split_made=SPLITS_MADE,
        model=ancient(rules.seed_shard.input.model),
        model_made=rules.seed_shard.input.model_made,
        shards=expand("results/{{dataset}}/seeds/{{recipe}}/shards/{shard}.npz", shard=SHARDS),
        parts=expand("results/{{dataset}}/seeds/{{recipe}}/shards/{shard}.json", shard=SHARDS),
    output:
        merged="results/{dataset}/seeds/{recipe}/maps.npz",
        provenance="results/{dataset}/seeds/{recipe}/provenance.json",
    log:
        "logs/{dataset}/seeds/{recipe}/merge.log",
    conda:
        "../../environment.yml"
    resources:
        mem_mb=growing(4000),
        runtime=growing(60),
    params:
        recipe=recipe("seeds"),
        code=code("merge_arrays.py"),
    script:
        "../scripts/merge_arrays.py"
