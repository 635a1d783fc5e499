"""Measures localisation maps against true masks."""

from acr.jobs import job
from acr.metrics import measure_seeds

with job(snakemake):
    measure_seeds(
        split=snakemake.input.split,
        maps=snakemake.input.maps,
        recipe=snakemake.params.recipe,
        dataset=snakemake.wildcards.dataset,
        name=snakemake.wildcards.recipe,
        output=snakemake.output.metrics,
    )
