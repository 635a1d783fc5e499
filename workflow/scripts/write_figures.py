"""Writes pictures of a few images of each split, and the threshold curves."""

from acr.figures import write_figures
from acr.jobs import job

with job(snakemake):
    write_figures(
        train=snakemake.input.train,
        val=snakemake.input.val,
        metrics=snakemake.input.metrics,
        seeds=snakemake.input.seeds,
        pseudo_labels=snakemake.params.pseudo_labels,
        predictions=snakemake.params.predictions,
        train_sheets=snakemake.output.train,
        val_sheets=snakemake.output.val,
        curves=snakemake.output.curves,
    )
