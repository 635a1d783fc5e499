"""Writes the figure of a sweep over layers."""

from acr.figures import write_layer_figure
from acr.jobs import job

with job(snakemake):
    write_layer_figure(
        metrics=snakemake.input.metrics,
        csv=snakemake.output.csv,
        picture=snakemake.output.picture,
    )
