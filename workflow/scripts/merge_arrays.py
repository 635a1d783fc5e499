"""Merges the arrays of all shards."""

from acr.jobs import job
from acr.shards import merge_maps

with job(snakemake.log[0]):
    merge_maps(
        split=snakemake.input.split,
        shards=snakemake.input.shards,
        recipe=snakemake.params.recipe,
        output=snakemake.output.merged,
        provenance=snakemake.output.provenance,
    )
