"""Trains DeepLabV2 on pseudo labels."""

from acr.jobs import job
from acr.segmenters import train_segmenter

with job(snakemake.log[0]):
    train_segmenter(
        split=snakemake.input.split,
        masks=snakemake.input.masks,
        weights=snakemake.input.get("weights"),
        recipe=snakemake.params.recipe,
        execution=snakemake.config["execution"],
        folder=snakemake.params.folder,
    )
