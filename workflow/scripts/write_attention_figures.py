"""Writes pictures of what the attention of a classifier sees."""

from acr.attention_figures import write_attention_figures
from acr.jobs import job

with job(snakemake):
    write_attention_figures(
        split=snakemake.input.split,
        model=snakemake.input.model,
        recipe=snakemake.params.recipe,
        execution=snakemake.config["execution"],
        pictures=snakemake.output.pictures,
        table=snakemake.output.table,
    )
