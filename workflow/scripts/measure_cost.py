"""Measures what training a classifier and making its seeds cost."""

from acr.costs import measure_cost
from acr.jobs import job

with job(snakemake):
    measure_cost(
        split=snakemake.input.split,
        recipe=snakemake.params.recipe,
        execution=snakemake.config["execution"],
        dataset=snakemake.wildcards.dataset,
        name=snakemake.wildcards.recipe,
        output=snakemake.output.metrics,
    )
