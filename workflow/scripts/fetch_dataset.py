"""Makes a data set be there: generated, downloaded, or found."""

from acr.datasets.catalogue import fetch_dataset
from acr.jobs import job

with job(snakemake):
    fetch_dataset(
        recipe=snakemake.params.recipe,
        execution=snakemake.config["execution"],
        manifest=snakemake.output.manifest,
    )
