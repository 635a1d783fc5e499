"""Writes the tables of images of a data set."""

from acr.datasets.catalogue import write_splits
from acr.jobs import job

with job(snakemake):
    write_splits(
        recipe=snakemake.params.recipe,
        execution=snakemake.config["execution"],
        manifest=snakemake.input.manifest,
        drawn=snakemake.params.drawn,
        folder=snakemake.params.folder,
    )
