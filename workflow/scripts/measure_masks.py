"""Measures masks against true masks."""

from acr.jobs import job
from acr.metrics import measure_masks

with job(snakemake.log[0]):
    measure_masks(
        split=snakemake.input.split,
        masks=snakemake.input.masks,
        stage=snakemake.params.stage,
        recipe=snakemake.params.recipe,
        dataset=snakemake.wildcards.dataset,
        name=snakemake.wildcards.recipe,
        output=snakemake.output.metrics,
    )
