"""Merges the arrays of all shards."""

from acr.jobs import job
from acr.shards import merge_maps

with job(snakemake):
    merge_maps(
        split=snakemake.input.split,
        shards=snakemake.input.shards,
        output=snakemake.output.merged,
    )
