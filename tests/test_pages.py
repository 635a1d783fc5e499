"""What the pages tell people to type works, and where they lead to is there.

CHECKS says of each kind of command how that is known. What a test cannot have is marked in the page, in the line above the
command, as `<!-- not run: needs Docker -->`; NEEDS lists what may stand there. A command of no kind and without a mark fails.
"""

import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
import yaml
from PIL import Image

from acr import __main__ as program
from acr.config import check
from tests import pages
from tests.pages import PAGES, Block, Command, merged
from tests.running import ROOT, plans

MAKEFILE = (ROOT / "Makefile").read_text()
COMMANDS = [command for page in PAGES for command in pages.commands(page)]
NEEDS = {"a cluster", "a GPU", "data", "a network", "Docker", "Apptainer"}


# ---- commands ------------------------------------------------------------------------------------------------------------


def shown(command: Command) -> dict[str, str]:
    """Files that the checkout lacks: those that the page writes out, and as configuration what the command's section shows."""
    content: dict = {}
    for each in pages.configurations(command.section):
        content = merged(content, each)
    named = {word: yaml.safe_dump(content) for word in command.words if re.fullmatch(r"[\w.-]+\.yaml", word)}
    return {name: text for name, text in (named | pages.written(command.page)).items() if not (ROOT / name).exists()}


def checkout(folder: Path, files: dict[str, str]) -> Path:
    """A folder that looks like a checkout, with further files; paths that stand for the reader's own lead to empty ones."""
    folder.mkdir()
    for path in ROOT.iterdir():
        if path.name not in (".git", ".snakemake", "results", "data", "logs"):
            (folder / path.name).symlink_to(path)
    for name, text in files.items():
        (folder / name).write_text(text.replace("/path/to/", "path/to/"))
        for own in re.findall(r"/(path/to/[\w./-]+)", text):
            (folder / own).parent.mkdir(parents=True, exist_ok=True)
            (folder / own).touch() if Path(own).suffix else (folder / own).mkdir()
    return folder


def run_on_micro(command: Command, run: Path, folder: Path) -> None:
    """A command of the package, on the micro run in place of any other and on stand-ins for what the reader has."""
    for name in ("results", "data"):
        (folder / name).symlink_to(run / name)
    arguments = [re.sub(r"^results/\w+", "results/micro", PLACEHOLDERS.get(word, word)) for word in command.words[3:]]
    for before, word in pairwise(arguments):
        kinds = [kind for kind in STAND_INS if word.endswith(kind)]
        if kinds and before not in ("-o", "--output") and not (folder / word).exists():
            STAND_INS[kinds[0]](folder / word, command)
    # no more than its name, in a sentence
    program.main(arguments if len(arguments) > 1 else [*arguments, "--help"])


def _labels(path: Path, command: Command) -> None:
    names = command.words[command.words.index("--classes") + 1 : command.words.index("-o")]
    count = {"voc": 20, "coco": 80}.get(names[0], len(names))
    np.save(path, {"2007_000032": np.eye(count, dtype=np.float32)[0]}, allow_pickle=True)


def _photograph(path: Path, command: Command) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)).save(path)


def _photographs(path: Path, command: Command) -> None:
    _photograph(path / "a.jpg", command)


PLACEHOLDERS = {"PATH": "results/micro/report.html"}
STAND_INS: dict[str, Callable[[Path, Command], None]] = {
    ".npy": _labels,
    ".jpg": _photograph,
    ".png": _photograph,
    "/": _photographs,
}


def is_target(command: Command) -> None:
    for target in (word for word in command.words[1:] if "=" not in word):
        assert re.search(rf"^{target}:", MAKEFILE, re.MULTILINE), command


def is_what_make_runs(command: Command) -> None:
    """`make install`, which `.ci/run` begins with, gives pip the same arguments; those for conda are in its file."""
    variables = dict(re.findall(r"^(\w+) := (.*)$", MAKEFILE, re.MULTILINE))
    recipes = re.sub(r"\$\((\w+)\)", lambda name: variables.get(name[1], ""), MAKEFILE)
    assert command.text in recipes + (ROOT / "environment.yml").read_text(), command


def is_of_the_environment(command: Command) -> None:
    """An environment is made as `make install` makes it, or as environment.yml is named."""
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    known = {
        "python3 -m venv .venv": "-m venv --clear .venv" in MAKEFILE,
        "source .venv/bin/activate": ".venv/bin" in MAKEFILE,
        "conda env create -f environment.yml": (ROOT / "environment.yml").is_file(),
        f"conda activate {environment['name']}": True,
    }
    assert known.get(command.text), command


def is_known_to_pytest(command: Command) -> None:
    settings = (ROOT / "pyproject.toml").read_text()
    for word in command.words[1:]:
        for marker in set(re.findall(r"\w+", word)) - {"not", "and", "or", "m", "k"} if " " in word else ():
            assert re.search(rf'^  "{marker}: ', settings, re.MULTILINE), command
        assert "/" not in word or (ROOT / word.partition("::")[0]).exists(), command


def is_a_script(command: Command) -> None:
    assert (ROOT / command.words[1]).is_file(), command


def is_a_benchmark(command: Command) -> None:
    """Its module, rows and options exist; tests/test_benchmarks.py runs one."""
    from benchmarks.table import PAIRS, SIZES

    module, *words = command.words[2:]
    file = ROOT / "benchmarks" / f"{module.partition('.')[2] or '__main__'}.py"
    for number, word in enumerate(words):
        if word.startswith("--"):
            assert f'"{word}"' in file.read_text(), command
        elif not (number and words[number - 1].startswith("--") and words[number - 1] != "--write"):
            assert word in {*PAIRS, *SIZES}, command
    assert file.is_file(), command


def is_planned(command: Command) -> None:
    """In `test_commands_of_snakemake_plan`: many at once take one start."""


def is_run(command: Command) -> None:
    """In `test_commands_of_the_package_run`, which has the micro run."""


CHECKS: dict[str, Callable[[Command], None]] = {
    r"snakemake\b": is_planned,
    r"python -m acr\b": is_run,
    r"python -m benchmarks\b": is_a_benchmark,
    r"make\b": is_target,
    r"pip install\b": is_what_make_runs,
    r"(python3 -m venv|source|conda)\b": is_of_the_environment,
    r"pytest\b": is_known_to_pytest,
    r"bash\b": is_a_script,
    r"python docs/": is_a_script,  # tests/test_tour.py runs it
}


def kinds(command: Command) -> list[Callable[[Command], None]]:
    return [kind for start, kind in CHECKS.items() if re.match(start, command.text)]


def of_kind(kind: Callable[[Command], None]) -> list[Command]:
    """The commands of a kind that are not marked, each text once a section."""
    chosen = [command for command in COMMANDS if kind in kinds(command) and not command.needs]
    return list({(command.section, command.text): command for command in chosen}.values())


@pytest.mark.parametrize("command", COMMANDS, ids=str)
def test_every_command_is_checked_or_marked(command: Command) -> None:
    if command.needs:
        assert command.needs in NEEDS
        return
    (kind,) = kinds(command)
    kind(command)


@pytest.mark.slow
def test_commands_of_snakemake_plan(tmp_path: Path) -> None:
    """Dry, as typed otherwise, and once where two say the same."""
    runs: dict[str, dict] = {}
    for command in of_kind(is_planned):
        arguments = ["--dry-run", *(word for word in command.words[1:] if word not in ("--dry-run", "--touch"))]
        key = str((arguments, shown(command)))
        if key not in runs:
            folder = str(checkout(tmp_path / str(len(runs)), shown(command)))
            runs[key] = {"arguments": arguments, "folder": folder, "checkout": folder}
    refused = {key: plan["output"] for key, plan in zip(runs, plans(list(runs.values())), strict=True) if plan["status"]}
    assert refused == {}


@pytest.mark.slow
@pytest.mark.parametrize("command", of_kind(is_run), ids=str)
def test_commands_of_the_package_run(command: Command, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    try:
        run_on_micro(command, run, tmp_path)
    except SystemExit as end:
        if end.code:
            pytest.fail(f"{command}: {end.code}")


# ---- configurations ------------------------------------------------------------------------------------------------------


def planned(page: Path, section: str) -> bool:
    """Whether a command of a section lays what the section shows over a preset."""
    own = [command for command in pages.commands(page) if command.section == section and is_planned in kinds(command)]
    return any(name.endswith(".yaml") for command in own for name in shown(command))


OTHERS = [
    (page, block)
    for page in PAGES
    for section in pages.sections(page)
    for block in pages.blocks(section)
    if (block.language == "yaml" or pages.configuration(block.code)) and not planned(page, section)
]


@pytest.mark.parametrize(("page", "block"), OTHERS, ids=lambda each: each.name if isinstance(each, Path) else "")
def test_every_other_configuration_fits_a_preset(page: Path, block: Block) -> None:
    content, refusals = pages.configuration(block.code), []
    assert content, block.code
    # tests/test_extending.py runs these
    assert {*content.pop("extensions", [])} <= {*pages.written(ROOT / "docs" / "extending.md")}
    for preset in sorted((ROOT / "config").glob("*.yaml")):
        try:
            check(merged(yaml.safe_load(preset.read_text()), content))
        except ValueError as error:
            refusals.append(f"{preset.name}: {error}")
        else:
            return
    pytest.fail("\n".join([block.code, *refusals]))


PAGE = """# One `word`

Say `make run`, `--dry-run`, `python -m` or `snakemake ... -- table_4`. [here](#one-word) [there](other.md)

    snakemake --cores all \\
      --configfile config/config.yaml
    frobnicate now && ls

## Two: a (b)

With `roll.py`:
```python
x = "[no](link)"  # ## no heading
```

<!-- not run: needs Docker -->

    docker build .

where `mine.yaml` says `execution: {shards: 2}`.

```sh
# a comment
$ pytest -x
```

### Two: a (b)

    dataset: mine
"""


def test_a_page_is_taken_apart(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    found = [(command.text, command.needs) for command in pages.commands(page)]
    assert found == [
        ("snakemake --cores all    --configfile config/config.yaml", None),
        ("frobnicate now", None),
        ("ls", None),
        ("make run", None),
        ("snakemake --cores all    --configfile config/config.yaml -- table_4", None),
        ("docker build .", "Docker"),
        ("pytest -x", None),
    ]
    assert [len(kinds(command)) for command in pages.commands(page)] == [1, 0, 0, 1, 1, 0, 1]
    assert pages.written(page) == {"roll.py": 'x = "[no](link)"  # ## no heading\n'}
    assert pages.links(page) == ["#one-word", "other.md"]
    assert pages.anchors(page) == {"one-word", "two-a-b", "two-a-b-1"}
    assert pages.configurations(pages.sections(page)[1]) == [{"dataset": "mine"}]


# ---- links ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    for link in pages.links(page):
        if ":" not in link:
            path, _, anchor = link.partition("#")
            target = (page.parent / path) if path else page
            assert target.exists(), link
            assert not anchor or anchor in pages.anchors(target), link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_address_is_well_formed(page: Path) -> None:
    assert {link for link in pages.links(page) if ":" in link} <= set(pages.addresses(page))
    for address in pages.addresses(page):
        parts = urlsplit(address)
        assert parts.scheme == "https", address
        assert re.fullmatch(r"[\w-]+(\.[\w-]+)+", parts.netloc), address


def test_every_page_is_reached_from_the_readme() -> None:
    reached, waiting = set(), [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        if page not in reached:
            reached.add(page)
            targets = [(page.parent / link.partition("#")[0]).resolve() for link in pages.links(page) if ":" not in link]
            waiting += [target for target in targets if target in PAGES]
    assert {*ROOT.glob("docs/*.md"), ROOT / "config" / "README.md"} <= reached


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_no_path_of_a_machine(page: Path) -> None:
    assert not re.search(r"(/root|/home|/work|/tmp)/", page.read_text())
