# in: a segmenter and the images of VOC's test; out: results/{dataset}/submissions/{recipe}.tgz for its evaluation server


rule test_split:
    input:
        splits_made=SPLITS_MADE,
    output:
        table="results/{dataset}/splits/test.csv",
        provenance=TEST_MADE,
    log:
        "logs/{dataset}/splits/test.log",
    localrule: True
    conda:
        "../../environment.yml"
    params:
        recipe=canonical(PLAN.data),
        code=code("write_test_split.py"),
    script:
        "../scripts/write_test_split.py"


rule submission:
    input:
        split=ancient("results/{dataset}/splits/test.csv"),
        split_made=TEST_MADE,
        masks="results/{dataset}/predictions/{recipe}/test/provenance.json",
    output:
        archive="results/{dataset}/submissions/{recipe}.tgz",
        provenance="results/{dataset}/submissions/{recipe}.provenance.json",
    log:
        "logs/{dataset}/submissions/{recipe}.log",
    conda:
        "../../environment.yml"
    resources:
        mem_mb=growing(4000),
        runtime=growing(60),
    params:
        recipe=recipe("predictions"),
        code=code("write_submission.py"),
        masks=subpath(input.masks, parent=True),
    script:
        "../scripts/write_submission.py"


rule voc_test_submission:
    input:
        made("predictions", "results/{dataset}/submissions/{name}.tgz"),
    localrule: True
