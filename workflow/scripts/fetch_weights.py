"""Fetches initial weights."""

from acr.jobs import job
from acr.models.weights import fetch_weights

with job(snakemake):
    fetch_weights(
        recipe=snakemake.params.recipe,
        weights=snakemake.output.weights,
    )
