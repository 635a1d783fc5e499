"""Packs the masks of VOC's test for its evaluation server."""

from acr.jobs import job
from acr.submissions import write_submission

with job(snakemake):
    write_submission(
        split=snakemake.input.split,
        masks=snakemake.params.masks,
        output=snakemake.output.archive,
    )
