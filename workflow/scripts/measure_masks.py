"""Measures masks against true masks."""

from acr.jobs import job
from acr.metrics import measure_masks

with job(snakemake):
    measure_masks(
        split=snakemake.input.split,
        masks=snakemake.params.masks,
        stage=snakemake.params.stage,
        recipe=snakemake.params.recipe,
        dataset=snakemake.wildcards.dataset,
        name=snakemake.wildcards.recipe,
        output=snakemake.output.metrics,
    )
