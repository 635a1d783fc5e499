"""Trains a classifier from tags."""

from acr.classifiers import train_classifier
from acr.jobs import job

with job(snakemake) as made_from:
    train_classifier(
        split=snakemake.input.split,
        weights=snakemake.input.get("weights"),
        recipe=snakemake.params.recipe,
        execution=snakemake.config["execution"],
        folder=snakemake.params.folder,
        made_from=made_from,
    )
