# in: timm's hub or a local safetensors file; out: data/weights/*.safetensors. No training job needs a network.


def weights_file(wildcards):
    file = PLAN.recipe("weights", wildcards.recipe).file
    return [] if file is None else file


rule weights:
    input:
        file=weights_file,
    output:
        weights="data/weights/{recipe}.safetensors",
        record="data/weights/{recipe}.json",
    params:
        recipe=recipe("weights"),
        code=code("fetch_weights.py"),
    log:
        "logs/weights/{recipe}.log",
    localrule: True
    script:
        "../scripts/fetch_weights.py"
