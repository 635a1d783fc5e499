# in: a classifier and the training images; out: results/{dataset}/layer_sweeps/{recipe}/maps.npz, metrics and figure 8


rule layer_sweep_shard:
    input:
        split=ancient(split("train")),
        split_made=SPLITS_MADE,
        model=ancient(upstream("layer_sweeps", "seeds.classifier", "results/{dataset}/classifiers/{name}/model.safetensors")),
        model_made=upstream("layer_sweeps", "seeds.classifier", "results/{dataset}/classifiers/{name}/provenance.json"),
        description=upstream("layer_sweeps", "seeds.classifier", "results/{dataset}/classifiers/{name}/model.json"),
    output:
        maps=temp("results/{dataset}/layer_sweeps/{recipe}/shards/{shard}.npz"),
        provenance=temp("results/{dataset}/layer_sweeps/{recipe}/shards/{shard}.json"),
    log:
        "logs/{dataset}/layer_sweeps/{recipe}/{shard}.log",
    benchmark:
        "logs/{dataset}/layer_sweeps/{recipe}/{shard}.tsv"
    conda:
        "../../environment.yml"
    threads: PLAN.execution.threads
    resources:
        gpu=1,
        mem_mb=growing(8000),
        runtime=growing(240),
    params:
        recipe=sweep_recipe,
        code=code("make_layer_sweep.py"),
    script:
        "../scripts/make_layer_sweep.py"


rule layer_sweep:
    input:
        split=ancient(split("train")),
        split_made=SPLITS_MADE,
        model=ancient(rules.layer_sweep_shard.input.model),
        model_made=rules.layer_sweep_shard.input.model_made,
        shards=expand("results/{{dataset}}/layer_sweeps/{{recipe}}/shards/{shard}.npz", shard=SHARDS),
        parts=expand("results/{{dataset}}/layer_sweeps/{{recipe}}/shards/{shard}.json", shard=SHARDS),
    output:
        merged="results/{dataset}/layer_sweeps/{recipe}/maps.npz",
        provenance="results/{dataset}/layer_sweeps/{recipe}/provenance.json",
    log:
        "logs/{dataset}/layer_sweeps/{recipe}/merge.log",
    conda:
        "../../environment.yml"
    resources:
        mem_mb=growing(4000),
        runtime=growing(60),
    params:
        recipe=sweep_recipe,
        code=code("merge_arrays.py"),
    script:
        "../scripts/merge_arrays.py"
