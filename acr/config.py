"""The configuration: recipes read from YAML and checked before any job starts. No torch: planning stays quick."""

import difflib
import json
import math
import re
import types
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields, is_dataclass, replace
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from acr import extensions
from acr.recipes import (
    DATASETS,
    METHOD_NAMES,
    SECTIONS,
    TRAINED,
    VIEW_NAMES,
    WHOLE,
    Dataset,
    Execution,
    Predictions,
    Row,
    Segmenter,
    Table,
)

POSITIVE = {
    *("batch_size", "images", "training_steps", "shards", "batch", "processes", "threads", "layers", "background_weight"),
    *("image_size", "crop_size", "stride", "radius", "size"),
    *("train_images", "val_images", "long_side", "crop_scales", "loss_scales", "scales", "segmenter_scales", "dilations"),
}
# what is there without extensions; which backbones there are, only timm knows
OWN = {"VIEWS": VIEW_NAMES, "METHODS": METHOD_NAMES, "DATASETS": tuple(DATASETS), "register_model": ()}
NOT_EMPTY = {"views", "crop_scales", "scales", "segmenter_scales", "dilations", "rows", "affinity_layers"}
REPEATED = ("classifiers", "seeds", "affinities", "pseudo_labels", "segmenters", "predictions")  # with further random states
Recipe = TypeVar("Recipe")


@dataclass(frozen=True)
class Plan:
    """A checked configuration: the data set it runs on and every recipe of every section.

    `added` has the file of every name that extensions add, by table.
    """

    dataset: str
    data: Dataset
    recipes: Mapping[str, Mapping[str, Any]]
    execution: Execution
    added: Mapping[str, Mapping[str, str]]

    def recipe(self, section: str, name: str) -> Any:
        """The recipe `name` of `section`; a ValueError names the nearest one where there is none."""
        if name not in self.recipes[section]:
            raise ValueError(f"{section} has no recipe {name!r}; {nearest(name, self.recipes[section])}")
        return self.recipes[section][name]

    def extensions_of(self, text: str) -> list[str]:
        """The files of the extensions of which a recipe, in its canonical form, holds a name."""
        words = set(re.findall(r"[\w-]+", text))
        return sorted({file for names in self.added.values() for name, file in names.items() if name in words})


def check(config: Mapping[str, Any]) -> Plan:
    """The plan of a configuration as snakemake read it.

    Raises:
        ValueError: one sentence with the key, the value and the nearest valid one.
    """
    known = ["dataset", "datasets", "extensions", "random_states", *SECTIONS, "execution"]
    _refuse_unknown("the configuration", config, known)
    added = _added(_value(tuple[str, ...], config.get("extensions") or [], "extensions"))
    dataset: Any = config.get("dataset")
    datasets = _section(config, "datasets")
    if dataset not in datasets:
        raise ValueError(f"dataset is {dataset!r}, which `datasets` does not describe; {nearest(dataset, datasets)}")
    recipes = {name: _recipes(_section(config, name), name, kind) for name, kind in SECTIONS.items()}
    plan = Plan(
        dataset=dataset,
        data=_dataset(datasets[dataset], f"datasets.{dataset}"),
        recipes=_repeated(recipes, _states(config)),
        execution=build(Execution, _section(config, "execution"), "execution"),
        added=added,
    )
    _check_names(plan)
    _check_choices(plan)
    _check_references(plan)
    _check_sources(plan)
    _check_figures(plan)
    _check_shares(plan)
    return _inheriting(plan)


def _states(config: Mapping[str, Any]) -> int:
    """How many random states all is made with."""
    count: int = _value(int, config.get("random_states", 1), "random_states")
    if count < 1:
        raise ValueError(f"random_states is {count}, but must be at least 1")
    return count


def _repeated(recipes: Mapping[str, Mapping[str, Any]], states: int) -> dict[str, dict[str, Any]]:
    """The recipes, and for each further random state what is trained again and all that is made of it, as NAME_state_N.

    Rows of tables name the repetitions beside what they repeat, and so show a mean and a standard deviation.
    """
    all_states = {section: dict(named) for section, named in recipes.items()}
    if states == 1:
        return all_states
    for state in range(1, states):
        for section in REPEATED:
            for name, recipe in recipes[section].items():
                again = _of_state(name, state)
                if again in recipes[section]:
                    raise ValueError(f"{section}.{again} has the name of a repetition by random_states; give it another")
                all_states[section][again] = _in_state(recipe, state)
    tables = {
        name: replace(table, rows=tuple(_all_states(row, states) for row in table.rows))
        for name, table in recipes["tables"].items()
    }
    return all_states | {"tables": tables}


def _of_state(name: str, state: int) -> str:
    """What a recipe is called in a random state, of which 0 is the one that its own name stands for."""
    return f"{name}_state_{state}" if state else name


def _in_state(recipe: Any, state: int) -> Any:
    """A recipe of a further random state: trained from it, and made of what is."""
    changes = {key: _of_state(value, state) for key, value in _repeated_references(recipe) if value is not None}
    if hasattr(recipe, "training"):
        changes["training"] = replace(recipe.training, random_state=recipe.training.random_state + state)
    return replace(recipe, **changes)


def _all_states(row: Row, states: int) -> Row:
    """A row of what it names in every random state."""
    changes: dict[str, Any] = {
        key: tuple(_of_state(name, state) for name in row.recipes(key) for state in range(states))
        for key, value in _repeated_references(row)
        if value is not None
    }
    return replace(row, **changes)


def _repeated_references(recipe: Any) -> list[tuple[str, Any]]:
    """The keys of a recipe that name others which every random state has, and their values."""
    return [(item.name, getattr(recipe, item.name)) for item in fields(recipe) if item.metadata.get("section") in REPEATED]


def _added(files: tuple[str, ...]) -> dict[str, dict[str, str]]:
    """What extensions add to each table, with the file of each name; those whose recipes are needed here are run."""
    added: dict[str, dict[str, str]] = {table: {} for table in OWN}
    for file in files:
        for table, name in extensions.additions(file):
            if name in (*OWN[table], *added[table]):
                raise ValueError(f"extension {file} adds {table}[{name!r}], which there is already; choose another name")
            added[table][name] = file
    extensions.load(extensions.needed(files))
    return added


def _inheriting(plan: Plan) -> Plan:
    """The plan with each network built and fed as what it starts from requires, unless its recipe says otherwise."""

    def resolved(recipe: Any) -> Any:
        if isinstance(recipe, Predictions):
            labels = plan.recipes["pseudo_labels"][recipe.labels] if recipe.labels else None
            return replace(recipe, labels_recipe=labels, seeds_recipe=labels and plan.recipes["seeds"][labels.seeds])
        if isinstance(recipe, Segmenter) and recipe.classifier is not None:
            classifier = resolved(plan.recipes["classifiers"][recipe.classifier])
            return replace(recipe, backbone=classifier.backbone, normalisation=classifier.normalisation, options={})
        if getattr(recipe, "weights", None) is None:
            return recipe
        weights = plan.recipes["weights"][recipe.weights]
        changes: dict[str, Any] = {"normalisation": weights.normalisation} if recipe.normalisation == "native" else {}
        if hasattr(recipe, "options"):
            changes["options"] = {**weights.options, **recipe.options}
        return replace(recipe, **changes)

    recipes = {section: {name: resolved(item) for name, item in named.items()} for section, named in plan.recipes.items()}
    return replace(plan, recipes=recipes)


def canonical(recipe: Any, *keys: str) -> str:
    """A recipe, or some keys of it, as one JSON string: names, values and types all count, the order of keys does not."""
    values = asdict(recipe)
    return json.dumps({key: values[key] for key in keys or values}, sort_keys=True)


def load(kind: type[Recipe], text: str) -> Recipe:
    """The recipe of which `text` is the canonical form."""
    return build(kind, json.loads(text), kind.__name__)


def load_dataset(text: str) -> Any:
    """The data set recipe of which `text` is the canonical form."""
    return _dataset(json.loads(text), "dataset")


def build(kind: type[Recipe], values: Any, where: str) -> Recipe:
    """A dataclass from plain values of YAML or JSON; `where` is the dotted key that messages name."""
    if not isinstance(values, Mapping):
        raise ValueError(f"{where} is {values!r}, but must be a mapping of keys to values")
    assert is_dataclass(kind), kind
    hints = get_type_hints(kind)
    _refuse_unknown(where, values, [item.name for item in fields(kind)])
    for item in fields(kind):
        if item.name not in values and item.default is MISSING and item.default_factory is MISSING:
            raise ValueError(f"{where} lacks the key {item.name!r}, which has no default")
    given = {key: _value(hints[key], value, f"{where}.{key}", _default(kind, key)) for key, value in values.items()}
    for key, value in given.items():
        _check_range(key, value, f"{where}.{key}")
    return kind(**given)


def _check_range(key: str, value: Any, where: str) -> None:
    if isinstance(value, int | float) and not isinstance(value, bool):
        if not math.isfinite(value):
            raise ValueError(f"{where} is {value}, but must be a finite number")
        if key in POSITIVE and value <= 0:
            raise ValueError(f"{where} is {value}, but must be positive")
        if value < 0:
            raise ValueError(f"{where} is {value}, but must not be negative")
    if key == "found" and value > 1:
        raise ValueError(f"{where} is {value}, but must be a probability between 0 and 1")
    if key == "val_share" and not 0 < value < 1:
        raise ValueError(f"{where} is {value}, but must lie between 0 and 1")
    if key in NOT_EMPTY and value == ():
        raise ValueError(f"{where} is empty, but must hold at least one item")
    if key in POSITIVE and isinstance(value, tuple):
        for index, item in enumerate(value):
            _check_range(key, item, f"{where}[{index}]")
    if key == "device" and not re.fullmatch(r"auto|cpu|cuda(:\d+)?", value):
        raise ValueError(f"{where} is {value!r}, but must be auto, cpu, cuda, or one of several GPUs such as cuda:1")


def _default(kind: type, key: str) -> Any:
    return next(item.default for item in fields(kind) if item.name == key)


def _dataset(values: Mapping[str, Any], where: str) -> Any:
    kind = values.get("kind") if isinstance(values, Mapping) else None
    if kind not in DATASETS:
        raise ValueError(f"{where}.kind is {kind!r}, which is no kind of data set; {nearest(kind, DATASETS)}")
    return build(DATASETS[kind], values, where)


def _section(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    section = config.get(name) or {}
    if not isinstance(section, Mapping):
        raise ValueError(f"{name} is {section!r}, but must be a mapping of names to recipes")
    return section


def _recipes(section: Mapping[str, Any], name: str, kind: type) -> dict[str, Any]:
    for recipe in section:
        if not re.fullmatch(r"[\w-]+", str(recipe)):
            raise ValueError(f"{name}.{recipe} cannot name files; use letters, digits, _ and -")
    return {recipe: build(kind, _extended(section, recipe, name, ()), f"{name}.{recipe}") for recipe in section}


def _extended(section: Mapping[str, Any], recipe: str, name: str, seen: tuple[str, ...]) -> Any:
    """The values of a recipe over those of the recipe it `extends`, nested mappings merged key by key."""
    values = section[recipe]
    if not isinstance(values, Mapping) or "extends" not in values:
        return values
    parent = values["extends"]
    if parent in (*seen, recipe):
        raise ValueError(f"{name}.{recipe} extends itself through {' -> '.join((*seen, recipe, parent))}")
    if parent not in section:
        raise ValueError(f"{name}.{recipe} extends {parent!r}, which is not in {name}; {nearest(parent, section)}")
    own = {key: value for key, value in values.items() if key != "extends"}
    return _merged(_extended(section, parent, name, (*seen, recipe)), own)


def _merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    both = {k: _merged(base[k], v) for k, v in over.items() if isinstance(v, Mapping) and isinstance(base.get(k), Mapping)}
    return {**base, **over, **both}


def _value(hint: Any, value: Any, where: str, default: Any = MISSING) -> Any:
    """`value` as the annotated type; nested recipes start from the field's own default."""
    origin, options = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return _union(options, value, where, default)
    if isinstance(hint, type) and is_dataclass(hint):
        base = asdict(default) if isinstance(default, hint) else {}
        return build(hint, _merged(base, value) if isinstance(value, Mapping) else value, where)
    if origin is tuple:
        return _tuple(options, value, where)
    if origin is Literal:
        if value not in options or isinstance(value, bool):
            raise ValueError(f"{where} is {value!r}; {nearest(value, options)}")
        return value
    if isinstance(value, str):
        value = _read(hint, value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    plain = Mapping if origin is not None else hint
    if not isinstance(value, plain) or (isinstance(value, bool) and hint is not bool):
        raise ValueError(f"{where} is {value!r}, but must be {_expected(hint)}")
    return value


def _read(hint: Any, text: str) -> Any:
    """What text stands for where a number, true or false is wanted, else the text.

    YAML takes 1e-4 for text, and `snakemake --config` all that stands inside of a mapping.
    """
    if hint is bool and text in ("true", "false"):
        return text == "true"
    if hint is int and re.fullmatch(r"[+-]?\d+", text):
        return int(text)
    if hint is float and re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", text):
        return float(text)
    return text


def _union(options: tuple[Any, ...], value: Any, where: str, default: Any) -> Any:
    if value in (None, "null") and type(None) in options:
        return None
    errors = []
    for option in options:
        if option is not type(None):
            try:
                return _value(option, value, where, default)
            except ValueError as error:
                errors.append(error)
    raise errors[-1]


def _tuple(options: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise ValueError(f"{where} is {value!r}, but must be a list")
    if options[-1] is Ellipsis:
        return tuple(_value(options[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    if len(value) != len(options):
        raise ValueError(f"{where} is {value!r}, but must be a list of {len(options)}")
    return tuple(_value(option, item, f"{where}[{i}]") for i, (option, item) in enumerate(zip(options, value, strict=True)))


def _expected(hint: Any) -> str:
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    return names.get(hint, "a mapping of keys to values")


def _refuse_unknown(where: str, values: Mapping[str, Any], known: list[str]) -> None:
    for key in values:
        if key not in known:
            raise ValueError(f"{where} has no key {key!r}; {nearest(key, known)}")


def nearest(value: Any, known: Any) -> str:
    """What to say of a name that is none of the known ones: the closest of them, else all."""
    names = [str(name) for name in known]
    close = difflib.get_close_matches(str(value), names, n=1)
    return f"did you mean {close[0]!r}?" if close else f"it must be one of {', '.join(names) or '(none is defined)'}"


def _check_names(plan: Plan) -> None:
    """Refuses names of data sets and splits that cannot name files, or that files beside the splits have."""
    splits = {f"datasets.{plan.dataset}.{role}": getattr(plan.data, role) for role in ("train", "val")}
    for where, name in {"dataset": plan.dataset, **splits}.items():
        if not re.fullmatch(r"[\w-]+", str(name)):
            raise ValueError(f"{where} is {name!r}, which cannot name files; use letters, digits, _ and -")
        if name in ("skipped", WHOLE) and where in splits:
            raise ValueError(f"{where} is {name!r}, the name of another table beside those of the splits; choose another")
        if name == "test" and plan.data.kind == "voc12":
            raise ValueError(
                f"{where} is 'test', whose masks only VOC's server has; ask for the target voc_test_submission instead"
            )


def _check_choices(plan: Plan) -> None:
    """Refuses views and methods that neither this package nor an extension has."""
    views, methods = ((*OWN[table], *plan.added[table]) for table in ("VIEWS", "METHODS"))
    for name, classifier in plan.recipes["classifiers"].items():
        for index, view in enumerate(classifier.views):
            for part in view.split("+"):
                if part not in views:
                    where = f"classifiers.{name}.views[{index}]"
                    raise ValueError(f"{where} is {view!r}, and there is no view {part!r}; {nearest(part, views)}")
    for name, seeds in plan.recipes["seeds"].items():
        if seeds.method not in methods:
            raise ValueError(f"seeds.{name}.method is {seeds.method!r}; {nearest(seeds.method, methods)}")


def _check_shares(plan: Plan) -> None:
    """Refuses batches that the processes which train a network together cannot share out equally."""
    count = plan.execution.processes
    for section in TRAINED:
        for name, recipe in plan.recipes[section].items():
            if recipe.training.batch_size % count:
                raise ValueError(
                    f"{section}.{name}.training.batch_size is {recipe.training.batch_size}, which the {count} processes of "
                    f"execution.processes cannot share out equally; make it a multiple of {count} or change execution.processes"
                )


def _check_references(plan: Plan) -> None:
    for section, recipes in plan.recipes.items():
        for name, recipe in recipes.items():
            rows = enumerate(recipe.rows) if isinstance(recipe, Table) else [(None, recipe)]
            for index, item in rows:
                where = f"{section}.{name}" if index is None else f"{section}.{name}.rows[{index}]"
                _check_reference(plan, item, where)


def _check_sources(plan: Plan) -> None:
    """Refuses pseudo labels of a segmenter that learns from them, and segmenters that start in two ways."""
    for name, recipe in plan.recipes["pseudo_labels"].items():
        way, source = [name], recipe.segmenter
        while source is not None:
            labels = plan.recipes["segmenters"][source].labels
            if labels in way:
                through = " -> ".join((*way, labels))
                raise ValueError(f"pseudo_labels.{name} is made of itself: {through}; let its segmenter learn from others")
            way.append(labels)
            source = plan.recipes["pseudo_labels"][labels].segmenter
    for name, segmenter in plan.recipes["segmenters"].items():
        if segmenter.classifier is not None and segmenter.weights is not None:
            raise ValueError(
                f"segmenters.{name} starts from classifier {segmenter.classifier!r} and from weights {segmenter.weights!r}; "
                "make one of them null"
            )


def _check_figures(plan: Plan) -> None:
    """Refuses a sweep without gradients of layers to average, and one that has the name, and so the target, of a table."""
    for name, sweep in plan.recipes["layer_sweeps"].items():
        method = plan.recipes["seeds"][sweep.seeds].method
        if method != "gradient":
            raise ValueError(
                f"layer_sweeps.{name}.seeds is {sweep.seeds!r}, whose method {method} averages no gradients of layers; name "
                "seeds of method gradient"
            )
        if name in plan.recipes["tables"]:
            raise ValueError(f"layer_sweeps.{name} and tables.{name} are one target; give one of them another name")


def _check_reference(plan: Plan, recipe: Any, where: str) -> None:
    for item in fields(recipe):
        section, value = item.metadata.get("section"), getattr(recipe, item.name)
        for name in value if isinstance(value, tuple) else (value,):
            if section and name is not None and name not in plan.recipes[section]:
                known = nearest(name, plan.recipes[section])
                raise ValueError(f"{where}.{item.name} is {name!r}, which `{section}` does not define; {known}")
