"""Makes the pseudo labels of one shard with a segmenter beside the seeds."""

from acr.jobs import job
from acr.self_training import self_label_shard

with job(snakemake) as made_from:
    self_label_shard(
        split=snakemake.input.split,
        maps=snakemake.input.maps,
        model=snakemake.input.get("model"),
        segmenter=snakemake.input.segmenter,
        recipe=snakemake.params.recipe,
        execution=snakemake.config["execution"],
        shard=snakemake.wildcards.shard,
        output=snakemake.output.masks,
        made_from=made_from,
    )
