"""Writes the masks of all shards as palette PNGs."""

from acr.jobs import job
from acr.shards import merge_masks

with job(snakemake):
    merge_masks(
        split=snakemake.input.split,
        shards=snakemake.input.shards,
        folder=snakemake.params.folder,
    )
