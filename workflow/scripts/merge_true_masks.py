"""Writes the true masks of all shards as palette PNGs."""

from acr.jobs import job
from acr.shards import merge_true_masks

with job(snakemake):
    merge_true_masks(
        shards=snakemake.input.shards,
        folder=snakemake.params.folder,
    )
