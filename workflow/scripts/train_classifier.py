"""Trains a classifier from tags."""

from acr.classifiers import train_classifier
from acr.jobs import job

with job(snakemake.log[0]):
    train_classifier(
        split=snakemake.input.split,
        weights=snakemake.input.get("weights"),
        recipe=snakemake.params.recipe,
        execution=snakemake.config["execution"],
        folder=snakemake.params.folder,
    )
