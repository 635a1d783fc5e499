"""What docs/extending.md shows works as it stands there: every block is written to a file or run, and its numbers looked at."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor

from acr import extensions, recipes
from acr.classifiers import read_classifier
from acr.config import check, load
from acr.datasets import textures
from acr.datasets.base import read_split
from acr.files import Arrays, read_json
from acr.images import read_image, write_image
from acr.localisation import METHODS, asked
from acr.models.attention import Keep
from acr.processes import in_processes
from acr.recipes import DATASETS, Seeds
from acr.seeds import as_input, normalise
from acr.shapes import Grid
from acr.views import HFLIP, IDENTITY, VIEWS, View, draw, restore
from tests import pages
from tests.running import MICRO, ROOT, dry_run, environment, plans, snakemake
from tests.test_config import changed
from tests.test_reruns import Job, planned
from tests.test_views import GRIDS, attention_of, grid_of, tokens_of

PAGE = ROOT / "docs" / "extending.md"
TEXT = PAGE.read_text()
(CONFIGURATION,) = pages.codes(PAGE, "yaml")
FILES = pages.written(PAGE)
(LOSS,) = (section for section in pages.sections(PAGE) if section.startswith("## Only the loss"))
TIMM, TRANSFORMERS = (block.code for block in pages.blocks(LOSS) if block.language == "python")
TARGET = "results/scenes/seeds/mine/provenance.json"
IMAGES = {"train": 8, "val": 2}


def write_extensions(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in FILES.items():
        (folder / name).write_text(text)


def overlay(path: Path, over: str = "") -> Path:
    """The configuration of the page, and what is to be said besides, as a file to be laid over another."""
    path.write_text(yaml.safe_dump({**yaml.safe_load(CONFIGURATION), **(yaml.safe_load(over) or {})}))
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as a user has it: photographs named after what they show, four extensions and a configuration."""
    folder = tmp_path_factory.mktemp("mine")
    write_extensions(folder)
    for split, count in IMAGES.items():
        for index in range(count):
            image, mask = textures.scene(textures.stream(0, split, index), 64)
            # a photograph must not be of both splits
            path = folder / "photos" / split / f"{'-'.join(textures.tags(mask))}_{split}{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_image(path, image)
    (folder / "mine.yaml").write_text(CONFIGURATION)
    return folder


@pytest.fixture(scope="module")
def made(folder: Path) -> Path:
    """What the page's command makes, with settings of seconds and two processes that train together."""
    (folder / "two.yaml").write_text("execution: {processes: 2}\n")
    config = [MICRO, folder / "mine.yaml", folder / "two.yaml"]
    assert f"-- {TARGET}\n" in TEXT
    finished = snakemake(folder, "--", TARGET, config=config)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return folder / "results" / "scenes"


@pytest.fixture(scope="module")
def modules(folder: Path) -> Iterator[dict[str, ModuleType]]:
    """The extensions as modules of this process, which forgets them at the end."""
    extensions.load([str(folder / name) for name in FILES])
    found = {Path(module.__file__).name: module for name, module in sys.modules.items() if name.startswith(extensions.PREFIX)}
    yield found
    VIEWS.pop("roll")
    METHODS.pop("rollout")
    DATASETS.pop("named")
    found["named.py"].KINDS.pop("named")
    for module in found.values():
        sys.modules.pop(module.__name__)


# ---- what the files add, through the pipeline ----------------------------------------------------------------------------


def test_the_page_fits_a_screen_or_two_and_names_its_files() -> None:
    assert len(TEXT.splitlines()) <= 140
    assert sorted(FILES) == sorted(yaml.safe_load(CONFIGURATION)["extensions"])


@pytest.mark.slow
def test_a_data_set_is_read_into_splits(made: Path, folder: Path) -> None:
    for name, count in IMAGES.items():
        split = read_split(made / "splits" / f"{name}.csv")
        photographs = sorted((folder / "photos" / name).iterdir())
        assert [record.image for record in split.records] == [path.relative_to(folder) for path in photographs]
        assert len(split.records) == count
        assert [set(record.labels) for record in split.records] == [
            set(path.name.split("_")[0].split("-")) for path in photographs
        ]
        assert split.classes == tuple(sorted(textures.CLASSES))
    assert read_json(made / "splits" / "source.json") == {"kind": "named", "root": "photos"}


@pytest.mark.slow
def test_a_backbone_is_trained_on_a_view_by_two_processes(made: Path, modules: dict[str, ModuleType]) -> None:
    classifier = made / "classifiers" / "mine"
    assert read_json(classifier / "model.json")["backbone"] == "vit_scenes"
    network = read_classifier(classifier / "model.safetensors").network
    assert (len(network.blocks), network.embed_dim, network.blocks[0].attn.num_heads) == (4, 96, 4)
    made_from = read_json(classifier / "provenance.json")
    assert made_from["recipe"]["views"] == ["roll", "hflip+roll"]
    assert re.fullmatch(r"code of train_classifier\.py with roll\.py, vit_scenes\.py: [0-9a-f]{16}", made_from["code"])


@pytest.mark.slow
def test_a_method_makes_the_seeds(made: Path, folder: Path, modules: dict[str, ModuleType]) -> None:
    """The maps on disk are what the function of the page gives for the photograph and its mirror image, added."""
    model = read_classifier(made / "classifiers" / "mine" / "model.safetensors")
    recipe = load(Seeds, json.dumps(read_json(made / "seeds" / "mine" / "provenance.json")["recipe"]))
    assert (recipe.method, recipe.layers, recipe.refine) == ("rollout", 3, False)
    maps, split = Arrays(made / "seeds" / "mine" / "maps.npz"), read_split(made / "splits" / "train.csv")
    for record in split.records:
        image = as_input(read_image(folder / record.image), 64, 64, model)
        classes = split.class_indices(record)
        trace = model(torch.stack([image, image.flip(-1)]), Keep(attention=(1, 2, 3)))
        direct = modules["rollout.py"].rollout(trace, asked([classes, classes]), recipe).unflatten(-1, (8, 8))
        expected = normalise(direct[:, :1] + direct[:, 1:].flip(-1))[:, 0]
        assert np.array_equal(maps[record.image_id], expected.numpy().astype(np.float16))
        assert len(maps[record.image_id]) == len(classes)


def test_rollout_by_hand(modules: dict[str, ModuleType]) -> None:
    """The row of the class token in (A2 + 1) / 2 (A1 + 1) / 2, of two layers and two patches."""
    from acr.models.trace import Trace

    first = torch.tensor([[[0.0, 0.5, 0.5], [0.0, 1.0, 0.0], [0.5, 0.5, 0.0]]])
    last = torch.tensor([[[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]])
    trace = Trace(torch.zeros(1, 2), (first, last), (), None, Grid(1, 2), 1)
    maps = modules["rollout.py"].rollout(trace, torch.tensor([[0], [1]]), Seeds(classifier="any", layers=2))
    # (1/2, 1/2, 0) times ((1/2, 1/4, 1/4), (0, 1, 0), ...)
    assert maps.tolist() == [[[0.625, 0.125]]] * 2


@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("name", ["roll", "hflip+roll", "roll+rot90"])
def test_a_view_is_undone_on_attention(modules: dict[str, ModuleType], name: str, grid: Grid) -> None:
    """In double precision, as in tests/test_views.py; larger images of the grid move as the grid does."""
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(2, 3, *grid, generator=generator, dtype=torch.float64)
    tokens = torch.randn(1, 2, 3, generator=generator, dtype=torch.float64)
    expected = attention_of(tokens_of(image, tokens))
    for state in range(4):
        view = draw((name,), np.random.default_rng(state), grid)
        viewed = view.forward(image)
        attention = attention_of(tokens_of(viewed, tokens))
        assert torch.allclose(restore(view, attention, grid_of(viewed), 2), expected, atol=1e-12, rtol=0)
    large = view.forward(image.repeat_interleave(8, -1).repeat_interleave(8, -2))
    assert torch.equal(large[..., ::8, ::8], viewed)


@pytest.mark.usefixtures("modules")
def test_a_view_with_another_inverse_is_seen() -> None:
    image = torch.randn(1, 3, 3, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    none = torch.zeros(1, 0, 3, dtype=torch.float64)
    view = draw(("roll",), np.random.default_rng(0), Grid(3, 5))
    attention, expected = (attention_of(tokens_of(each, none)) for each in (view.forward(image), image))
    for inverse in (IDENTITY.inverse, HFLIP.inverse, view.forward):
        restored = restore(View("wrong", view.forward, inverse), attention, Grid(3, 5), 0)
        assert (restored - expected).abs().max() > 0.1


# ---- what re-runs --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_an_edit_re_runs_what_uses_it(made: Path, folder: Path, tmp_path: Path) -> None:
    seeds = {Job("seed_shard", "mine"), Job("seeds", "mine")}
    classifier = {Job("classifier", "mine"), *seeds}
    everything = {Job("dataset", ""), Job("splits", ""), *classifier}
    expected = {"roll.py": classifier, "rollout.py": seeds, "vit_scenes.py": classifier, "named.py": everything}
    edits = {name: (name, f"{text}edited = 1\n") for name, text in FILES.items()}
    edits["a comment"] = ("roll.py", f"# edited\n{FILES['roll.py']}".replace("The image moves", "It moves"))
    edits["one more"] = ("other.py", 'from acr.views import VIEWS\nVIEWS["other"] = None\n')
    edits["none"] = ("roll.py", FILES["roll.py"])
    runs = []
    for number, (name, text) in enumerate(edits.values()):
        copy = tmp_path / str(number)
        write_extensions(copy)
        (copy / name).write_text(text)
        listed = json.dumps([str(copy / each) for each in {**FILES, name: text}])
        config = [MICRO, overlay(copy / "mine.yaml", f"extensions: {listed}")]
        runs.append(dry_run(folder, "--", TARGET, config=config))
    answers = dict(zip(edits, plans(runs), strict=True))
    assert [answer["status"] for answer in answers.values()] == [0] * len(answers), answers
    found = {name: set(planned(answer["output"])) for name, answer in answers.items()}
    assert found == {**{name: set() for name in edits}, **expected}


# ---- what is refused, before any job -------------------------------------------------------------------------------------


def configuration(folder: Path, **over: object) -> dict:
    """The page's configuration as snakemake has it, with the files of `folder`."""
    base = {**yaml.safe_load(MICRO.read_text()), **yaml.safe_load(CONFIGURATION)}
    for section in ("classifiers", "seeds"):
        base[section] = {**yaml.safe_load(MICRO.read_text())[section], **base[section]}
    return {**base, "extensions": [str(folder / name) for name in FILES], **over}


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("classifiers.mine.views", ["hflip+rol"], "there is no view 'rol'; did you mean 'roll'?"),
        ("seeds.mine.method", "rolout", "seeds.mine.method is 'rolout'; did you mean 'rollout'?"),
        ("datasets.scenes.kind", "nmed", "which is no kind of data set; did you mean 'named'?"),
        ("datasets.scenes.sufix", ".jpg", "datasets.scenes has no key 'sufix'; did you mean 'suffix'?"),
    ],
)
def test_a_misspelt_name_is_refused(
    modules: dict[str, ModuleType], folder: Path, key: str, value: object, message: str
) -> None:
    wrong = configuration(folder)
    section, name, last = key.split(".")
    wrong[section] = {**wrong[section], name: {**wrong[section][name], last: value}}
    with pytest.raises(ValueError, match=re.escape(message)):
        check(wrong)
    assert check(configuration(folder)).data.kind == "named"


def test_what_is_not_listed_is_not_known(modules: dict[str, ModuleType]) -> None:
    with pytest.raises(ValueError, match=r"seeds\.acr\.method is 'rollout'; it must be one of gradient, cam,"):
        check(changed("seeds.acr.method", "rollout"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "extensions names '{}', which cannot be read (No such file or directory); give its path from the working"),
        ("def", "extensions names '{}', which is no Python (invalid syntax"),
        ("VIEWS = {}\nVIEWS.update(mine=1)\n", "extensions names '{}', which adds nothing; write out TABLE['name'] = ... with"),
        ('VIEWS["hflip"] = 1\n', "extension {} adds VIEWS['hflip'], which there is already; choose another name"),
        ('METHODS["cam"] = 1\n', "extension {} adds METHODS['cam'], which there is already; choose another name"),
        ('VIEWS["a+b"] = 1\n', "extension {} adds VIEWS['a+b']; use letters, digits, _ and -"),
        (
            'import nowhere\nDATASETS["mine"] = 1\n',
            "extension {} cannot be run (ModuleNotFoundError: No module named 'nowhere'); mend it",
        ),
    ],
)
def test_a_wrong_file_is_one_sentence(tmp_path: Path, text: str | None, message: str) -> None:
    file = tmp_path / "mine.py"
    if text is not None:
        file.write_text(text)
    with pytest.raises(ValueError, match=r"^[^\n]+$") as caught:
        check(changed("extensions", [str(file)]))
    assert str(caught.value).startswith(message.format(file))


def test_two_files_do_not_add_one_name(tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("one.py", "two.py")]
    for file in files:
        file.write_text('VIEWS["mine"] = 1\n')
    with pytest.raises(ValueError, match=re.escape(f"extension {files[1]} adds VIEWS['mine'], which there is already")):
        check(changed("extensions", list(map(str, files))))


def test_a_recipe_without_a_reader_is_one_sentence(tmp_path: Path, modules: dict[str, ModuleType]) -> None:
    from acr.datasets.catalogue import KINDS, fetch_dataset

    kind = KINDS.pop("named")
    with pytest.raises(ValueError, match=re.escape("'named' has a recipe and no reader; assign KINDS['named'] as well")):
        fetch_dataset(recipe='{"kind": "named"}', execution={}, manifest=tmp_path / "source.json")
    KINDS["named"] = kind


def test_planning_loads_no_torch(folder: Path) -> None:
    code = f"""
import sys
from acr.config import check
plan = check({configuration(folder)!r})
print(plan.recipe("seeds", "mine").method, plan.data.suffix, "torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment(), check=False)
    assert (done.stdout, done.stderr) == ("rollout .png False\n", "")


def test_processes_know_what_an_extension_defines(tmp_path: Path) -> None:
    file = tmp_path / "doubles.py"
    file.write_text('DATASETS = {}\nDATASETS["twice"] = None\n\ndef double(number):\n    return 2 * number\n')
    extensions.load([str(file)])
    (name,) = [name for name, module in sys.modules.items() if getattr(module, "__file__", "") == str(file)]
    assert list(in_processes(sys.modules[name].double, [(1,), (2,)], 1)) == [2, 4]
    del sys.modules[name]


def test_every_section_of_the_configuration_is_explained() -> None:
    headings = re.findall(r"^## (.*)", (ROOT / "config" / "README.md").read_text(), re.MULTILINE)
    explained = {word for heading in headings for word in re.findall(r"\w+", heading)}
    assert explained >= {"dataset", "datasets", "extensions", *recipes.SECTIONS, "execution"}


# ---- only the loss -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["timm", "transformers"])
def example(request: pytest.FixtureRequest) -> dict:
    """The names that a block of the page defines, its network in double precision; the second needs the first's imports."""
    torch.manual_seed(0)
    names: dict = {}
    exec(TIMM, names)
    if request.param == "transformers":
        exec(TRANSFORMERS, names)
    names["network"].double()
    return names


def images() -> Tensor:
    return torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def query_weights(network: torch.nn.Module) -> list[Tensor]:
    """The weights of every layer that attention is made of: queries and keys."""
    return [
        parameter
        for name, parameter in network.named_parameters()
        if re.search(r"\b(qkv|q_proj|query|k_proj|key)\.weight", name)
    ]


def test_the_loss_is_finite_and_teaches_attention(example: dict) -> None:
    logits, terms = example["forward"](images())
    assert logits.shape[-1] == 5
    assert all(torch.isfinite(term) and term > 0 for term in terms)
    weights = query_weights(example["network"])
    layers = len(getattr(example["network"], "blocks", ())) or 2 * 3
    assert len(weights) == layers
    for term in terms:
        # the last layer's attention reaches every layer below it, and each its own
        for gradient in torch.autograd.grad(term, weights, retain_graph=True):
            assert gradient.abs().max() > 0


def test_the_loss_of_two_equal_views_is_zero(example: dict) -> None:
    _, terms = example["forward"](images(), IDENTITY)
    assert max(terms) < 1e-15


def attentions_by_hand(example: dict, batch: Tensor) -> list[Tensor]:
    """Head by head from queries and keys, as the layers themselves are asked for them, not for attention."""
    if "attentions" in example and "ViTConfig" not in example:
        example["forward"](batch, IDENTITY)
        return [layer[: len(batch)] for layer in example["attentions"]]
    return list(example["network"](batch, output_attentions=True).attentions)


def test_the_loss_of_a_flip_by_hand(example: dict) -> None:
    """Entry by entry: patch (i, j) of the image is patch (i, 3 - j) of its mirror image."""
    _, terms = example["forward"](images())
    mirrored = [1 + 4 * row + 3 - column for row in range(4) for column in range(4)]
    activation, affinity = [], []
    pairs = zip(attentions_by_hand(example, images()), attentions_by_hand(example, images().flip(-1)), strict=True)
    for one, other in ((one.mean(1), other.mean(1)) for one, other in pairs):
        for image in range(2):
            for query in range(16):
                activation.append(abs(one[image, 0, 1 + query] - other[image, 0, mirrored[query]]).item())
                for key in range(16):
                    difference = one[image, 1 + query, 1 + key] - other[image, mirrored[query], mirrored[key]]
                    affinity.append(abs(difference).item())
    assert terms.activation.item() == pytest.approx(np.mean(activation), rel=1e-9)
    assert terms.affinity.item() == pytest.approx(np.mean(affinity), rel=1e-9)


def test_the_loss_needs_torch_numpy_and_jaxtyping_alone() -> None:
    others = ["PIL", "cv2", "pandas", "snakemake", "timm"]
    code = f"import sys, acr.consistency, acr.views; print([name for name in {others} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment()).stdout == "[]\n"
