# The checked configuration, and how a rule gets its recipe, its upstream files and its code. Functions only.
from snakemake.exceptions import WorkflowError

from acr.config import canonical, check
from acr.provenance import fingerprint

try:
    PLAN = check(config)
except ValueError as error:
    raise WorkflowError(f"configuration: {error}")

RESULTS = Path("results") / PLAN.dataset
SHARDS = [f"{shard}-of-{PLAN.execution.shards}" for shard in range(PLAN.execution.shards)]


wildcard_constraints:
    dataset=PLAN.dataset,
    recipe="[^/.]+",
    split="[^/.]+",
    shard="[0-9]+-of-[0-9]+",


def recipe(section, part=None):
    """A params function: the canonical recipe that the wildcard names, or one part of it."""

    def text(wildcards):
        whole = PLAN.recipe(section, wildcards.recipe)
        return canonical(getattr(whole, part) if part else whole)

    return text


def code(script):
    """What a script can compute: it changes with the code that the script reaches, not with dates or comments."""
    if not PLAN.execution.track_code:
        return "untracked"
    return fingerprint(Path(workflow.basedir) / "scripts" / script)


def upstream(section, key, path):
    """An input function: the file of the recipe that `key` of this rule's recipe names; no file where it is null."""

    def files(wildcards):
        name = getattr(PLAN.recipe(section, wildcards.recipe), key)
        return [] if name is None else path.format(dataset=wildcards.dataset, name=name)

    return files


def split(role):
    """The table of images of a role, train or val."""
    return f"results/{{dataset}}/splits/{getattr(PLAN.data, role)}.csv"


def made(section, path):
    """The file of every recipe of a section, by the recipe's name."""
    return {name: path.format(dataset=PLAN.dataset, name=name) for name in PLAN.recipes[section]}
