"""Makes the localisation maps of one shard."""

from acr.jobs import job
from acr.seeds import seed_shard

with job(snakemake) as made_from:
    seed_shard(
        split=snakemake.input.split,
        model=snakemake.input.model,
        recipe=snakemake.params.recipe,
        execution=snakemake.config["execution"],
        shard=snakemake.wildcards.shard,
        output=snakemake.output.maps,
        made_from=made_from,
    )
