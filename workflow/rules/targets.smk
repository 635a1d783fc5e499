# Tables and figures as targets by their names: `snakemake ... -- table_4`
from acr.paper import PAPER


def written(folder, names, kinds):
    """The files of each name."""
    return {name: [RESULTS / folder / f"{name}.{kind}" for kind in kinds] for name in names}


def lacking(name):
    """An input function that refuses a target of the paper whose recipes the configuration does not have."""

    def refuse(wildcards):
        raise WorkflowError(
            f"the configuration has no {name}; lay config/ablations.yaml over it: --configfile PRESET config/ablations.yaml"
        )

    return refuse


FIGURES = written("figures", PLAN.recipes["layer_sweeps"], ("csv", "png"))
TARGETS = {
    **{name: lacking(name) for name in (*PAPER, "figure_8")},
    **written("tables", PLAN.recipes["tables"], ("csv", "md")),
    **FIGURES,
}

for target in TARGETS:
    if workflow.is_rule(target):
        raise WorkflowError(f"configuration: {target} is the name of a rule; give the table or sweep another one")

for target, files in TARGETS.items():

    rule:
        name:
            target
        input:
            files,
