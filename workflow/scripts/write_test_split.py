"""Writes the table of the images of VOC's test."""

from acr.datasets.catalogue import write_test_split
from acr.jobs import job

with job(snakemake):
    write_test_split(
        recipe=snakemake.params.recipe,
        execution=snakemake.config["execution"],
        output=snakemake.output.table,
    )
