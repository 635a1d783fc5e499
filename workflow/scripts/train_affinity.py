"""Trains a PSA network."""

from acr.affinities import train_affinity
from acr.jobs import job

with job(snakemake) as made_from:
    train_affinity(
        split=snakemake.input.split,
        labels=snakemake.input.labels,
        weights=snakemake.input.get("weights"),
        recipe=snakemake.params.recipe,
        execution=snakemake.config["execution"],
        folder=snakemake.params.folder,
        made_from=made_from,
    )
