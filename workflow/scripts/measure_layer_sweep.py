"""Measures the seeds from each first layer against true masks."""

from acr.jobs import job
from acr.metrics import measure_layer_sweep

with job(snakemake):
    measure_layer_sweep(
        split=snakemake.input.split,
        maps=snakemake.input.maps,
        recipe=snakemake.params.recipe,
        dataset=snakemake.wildcards.dataset,
        name=snakemake.wildcards.recipe,
        output=snakemake.output.metrics,
    )
