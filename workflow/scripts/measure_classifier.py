"""Measures a classifier on tags."""

from acr.classifiers import measure_classifier
from acr.jobs import job

with job(snakemake):
    measure_classifier(
        split=snakemake.input.split,
        model=snakemake.input.model,
        execution=snakemake.config["execution"],
        recipe=snakemake.params.recipe,
        dataset=snakemake.wildcards.dataset,
        name=snakemake.wildcards.recipe,
        output=snakemake.output.metrics,
    )
