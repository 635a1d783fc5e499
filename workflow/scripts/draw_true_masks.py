"""Draws the true masks of one shard."""

from acr.datasets.catalogue import draw_shard
from acr.jobs import job

with job(snakemake) as made_from:
    draw_shard(
        recipe=snakemake.params.recipe,
        shard=snakemake.wildcards.shard,
        output=snakemake.output.masks,
        made_from=made_from,
    )
