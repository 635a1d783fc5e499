"""Predicts the masks of one shard."""

from acr.jobs import job
from acr.segmenters import predict_shard

with job(snakemake) as made_from:
    predict_shard(
        split=snakemake.input.split,
        model=snakemake.input.model,
        recipe=snakemake.params.recipe,
        execution=snakemake.config["execution"],
        shard=snakemake.wildcards.shard,
        output=snakemake.output.masks,
        made_from=made_from,
    )
