"""Makes the confident labels of one shard."""

from acr.confident_labels import label_shard
from acr.jobs import job

with job(snakemake) as made_from:
    label_shard(
        split=snakemake.input.split,
        maps=snakemake.input.maps,
        recipe=snakemake.params.recipe,
        execution=snakemake.config["execution"],
        shard=snakemake.wildcards.shard,
        output=snakemake.output.labels,
        made_from=made_from,
    )
