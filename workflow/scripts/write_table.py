"""Writes a table of the paper with our rows."""

from acr.jobs import job
from acr.tables import write_table

with job(snakemake):
    write_table(
        name=snakemake.wildcards.recipe,
        recipe=snakemake.params.recipe,
        metrics=snakemake.input.metrics,
        csv=snakemake.output.csv,
        markdown=snakemake.output.markdown,
    )
