"""Writes the report and the results as text."""

from acr.jobs import job
from acr.report import write_report

with job(snakemake):
    write_report(
        dataset=snakemake.params.dataset,
        train=snakemake.input.train,
        val=snakemake.input.val,
        skipped=snakemake.input.skipped,
        metrics=snakemake.input.metrics,
        seeds=snakemake.input.seeds,
        pseudo_labels=snakemake.params.pseudo_labels,
        predictions=snakemake.params.predictions,
        histories=snakemake.input.histories,
        sweeps=snakemake.input.sweeps,
        tables=snakemake.input.tables,
        attention=snakemake.input.attention,
        report=snakemake.output.report,
        summary=snakemake.output.summary,
    )
