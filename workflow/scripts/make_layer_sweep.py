"""Makes the maps of one shard from each first layer."""

from acr.jobs import job
from acr.layer_sweeps import sweep_shard

with job(snakemake) as made_from:
    sweep_shard(
        split=snakemake.input.split,
        model=snakemake.input.model,
        recipe=snakemake.params.recipe,
        execution=snakemake.config["execution"],
        shard=snakemake.wildcards.shard,
        output=snakemake.output.maps,
        made_from=made_from,
    )
