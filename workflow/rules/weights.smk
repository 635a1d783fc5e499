# in: timm's hub or a local file, of safetensors or torch.save; out: data/weights/*.safetensors. No training job needs a network.


rule weights:
    input:
        file=ancient(weights_file),
    output:
        weights="data/weights/{recipe}.safetensors",
        provenance="data/weights/{recipe}.provenance.json",
    log:
        "logs/weights/{recipe}.log",
    localrule: True
    conda:
        "../../environment.yml"
    params:
        recipe=recipe("weights"),
        code=code("fetch_weights.py", recipe("weights")),
        seen=weights_seen,
    script:
        "../scripts/fetch_weights.py"
