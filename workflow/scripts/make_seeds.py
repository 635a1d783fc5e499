"""Makes the localisation maps of one shard."""

from acr.jobs import job
from acr.seeds import seed_shard

with job(snakemake.log[0]):
    seed_shard(
        split=snakemake.input.split,
        model=snakemake.input.model,
        recipe=snakemake.params.recipe,
        execution=snakemake.config["execution"],
        shard=snakemake.wildcards.shard,
        output=snakemake.output.maps,
    )
