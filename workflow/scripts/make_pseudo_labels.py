"""Makes the pseudo labels of one shard."""

from acr.jobs import job
from acr.pseudo_labels import pseudo_label_shard

with job(snakemake) as made_from:
    pseudo_label_shard(
        split=snakemake.input.split,
        maps=snakemake.input.maps,
        model=snakemake.input.get("model"),
        recipe=snakemake.params.recipe,
        execution=snakemake.config["execution"],
        shard=snakemake.wildcards.shard,
        output=snakemake.output.masks,
        made_from=made_from,
    )
