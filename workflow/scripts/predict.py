"""Predicts the masks of one shard."""

from acr.jobs import job
from acr.predictions import predict_shard

with job(snakemake) as made_from:
    predict_shard(
        split=snakemake.input.split,
        model=snakemake.input.model,
        classifier=snakemake.input.get("classifier"),
        maps=snakemake.input.get("maps"),
        affinity=snakemake.input.get("affinity"),
        recipe=snakemake.params.recipe,
        execution=snakemake.config["execution"],
        shard=snakemake.wildcards.shard,
        output=snakemake.output.masks,
        made_from=made_from,
    )
