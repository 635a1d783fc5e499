"""Writes the report and the results as text."""

from acr.jobs import job
from acr.report import write_report

with job(snakemake.log[0]):
    write_report(
        dataset=snakemake.params.dataset,
        train=snakemake.input.train,
        val=snakemake.input.val,
        metrics=snakemake.input.metrics,
        seeds=snakemake.input.seeds,
        pseudo_labels=snakemake.input.pseudo_labels,
        predictions=snakemake.input.predictions,
        histories=snakemake.input.histories,
        tables=snakemake.input.tables,
        report=snakemake.output.report,
        summary=snakemake.output.summary,
    )
