"""Trains DeepLabV2 on pseudo labels."""

from acr.jobs import job
from acr.segmenters import train_segmenter

with job(snakemake) as made_from:
    train_segmenter(
        split=snakemake.input.split,
        masks=snakemake.params.masks,
        weights=snakemake.input.get("weights"),
        classifier=snakemake.input.get("classifier"),
        recipe=snakemake.params.recipe,
        execution=snakemake.config["execution"],
        folder=snakemake.params.folder,
        made_from=made_from,
    )
