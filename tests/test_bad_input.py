"""Bad input, row by row: what is wrong, the exit status of snakemake, and the one sentence that is said, to the letter.

Each row runs snakemake. Rows of the configuration are dry runs; rows of data run the rule that meets the data first.
"""

import errno
import os
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.numpy import save_file

from acr.config import canonical
from acr.datasets.catalogue import write_splits
from acr.datasets.published import published
from acr.datasets.voc12 import CLASSES
from acr.files import Arrays, read_json, write_arrays, write_json
from acr.images import image_size, read_mask, write_image, write_mask
from acr.jobs import job as run_as
from acr.models.vit import VitClassifier
from acr.models.weights import fetch_weights
from acr.pseudo_labels import pseudo_label_shard
from acr.recipes import PseudoLabels, Voc12, Weights
from acr.shards import merge_maps, merge_masks
from tests.odd import BYTE_ORDER_MARK, LARGE, Devkit, configuration, odd, plain
from tests.running import MICRO, ROOT, arguments, plans, snakemake

SPLITS = Path("results/micro/splits")
Content = dict[str, Any]


class Row(NamedTuple):
    """One thing that is wrong, or odd but fine."""

    name: str
    message: str  # a whole line of what snakemake prints
    prepare: Callable[[Path], Content]  # makes a folder and returns the configuration
    options: tuple[str, ...] = ()
    status: int = 1
    told_in: str = ""  # the file that tells the message, below the folder, where the screen does not


def write(folder: Path, row: Row) -> Content:
    """The run of a row, for `plans`."""
    folder.mkdir(parents=True)
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(row.prepare(folder)))
    return {"arguments": [*arguments(folder, [path]), *row.options], "folder": str(folder), "checkout": str(ROOT)}


# ---- the configuration ---------------------------------------------------------------------------------------------------


def changed(content: Content, path: str, value: object) -> Content:
    *parents, last = path.split(".")
    place = content
    for key in parents:
        place = place.setdefault(key, {})
    place[last] = value
    return content


def key(path: str, value: object, message: str) -> Row:
    """A dry run of the micro recipes with one dotted key changed."""
    micro = yaml.safe_load(MICRO.read_text())
    return Row(f"{path}={value}", f"configuration: {message}", lambda _: changed(micro, path, value), ("--dry-run",))


CLASSIFIER, SEEDS = "classifiers.acr", "seeds.acr"
CONFIGURATION = [
    key("dataset", "mikro", "dataset is 'mikro', which `datasets` does not describe; did you mean 'micro'?"),
    key("seed", {}, "the configuration has no key 'seed'; did you mean 'seeds'?"),
    key("seeds", [1], "seeds is [1], but must be a mapping of names to recipes"),
    key("datasets.micro.kind", "voc", "datasets.micro.kind is 'voc', which is no kind of data set; did you mean 'voc12'?"),
    key("datasets.micro.sise", 3, "datasets.micro has no key 'sise'; did you mean 'size'?"),
    key("datasets.micro.train_images", 0, "datasets.micro.train_images is 0, but must be positive"),
    key(
        "datasets.micro.val",
        "../val",
        "datasets.micro.val is '../val', which cannot name files; use letters, digits, _ and -",
    ),
    key(
        "datasets.micro.train",
        "skipped",
        "datasets.micro.train is 'skipped', the name of another table beside those of the splits; choose another",
    ),
    key(
        "datasets.micro.on_unreadable",
        "ignore",
        "datasets.micro.on_unreadable is 'ignore'; it must be one of skip, fail",
    ),
    key(f"{CLASSIFIER}.activatoin", 1, "classifiers.acr has no key 'activatoin'; did you mean 'activation'?"),
    key(f"{CLASSIFIER}.distance", "L1", "classifiers.acr.distance is 'L1'; it must be one of l1, l2, smooth_l1"),
    key(
        f"{CLASSIFIER}.training.learning_rate",
        "fast",
        "classifiers.acr.training.learning_rate is 'fast', but must be a number",
    ),
    key(
        f"{CLASSIFIER}.training.learning_rate",
        float("inf"),
        "classifiers.acr.training.learning_rate is inf, but must be a finite number",
    ),
    key(f"{CLASSIFIER}.training.batch_size", 2.5, "classifiers.acr.training.batch_size is 2.5, but must be a whole number"),
    key(f"{CLASSIFIER}.training.batch_size", 0, "classifiers.acr.training.batch_size is 0, but must be positive"),
    key(f"{CLASSIFIER}.training.epochs", -1, "classifiers.acr.training.epochs is -1.0, but must not be negative"),
    key(f"{CLASSIFIER}.activation", True, "classifiers.acr.activation is True, but must be a number"),
    key(
        f"{CLASSIFIER}.views",
        ["hflop"],
        "classifiers.acr.views[0] is 'hflop', and there is no view 'hflop'; did you mean 'hflip'?",
    ),
    key(f"{CLASSIFIER}.views", [], "classifiers.acr.views is empty, but must hold at least one item"),
    key(f"{CLASSIFIER}.long_side", [1], "classifiers.acr.long_side is [1], but must be a list of 2"),
    key(CLASSIFIER, 3, "classifiers.acr is 3, but must be a mapping of keys to values"),
    key(f"{SEEDS}.layer", 3, "seeds.acr has no key 'layer'; did you mean 'layers'?"),
    key(f"{SEEDS}.layers", 0, "seeds.acr.layers is 0, but must be positive"),
    key(SEEDS, {"layers": 2}, "seeds.acr lacks the key 'classifier', which has no default"),
    key(
        f"{SEEDS}.classifier",
        "acl",
        "seeds.acr.classifier is 'acl', which `classifiers` does not define; did you mean 'acr'?",
    ),
    key("seeds.untrained", {"extends": "acx"}, "seeds.untrained extends 'acx', which is not in seeds; did you mean 'acr'?"),
    key("seeds.untrained", {"extends": "untrained"}, "seeds.untrained extends itself through untrained -> untrained"),
    key(
        "seeds.acr",
        {"extends": "acr_star"},
        "seeds.acr_star extends itself through acr -> acr_star -> acr",
    ),
    key("seeds.a/b", {"classifier": "acr"}, "seeds.a/b cannot name files; use letters, digits, _ and -"),
    key("pseudo_labels.acr.background", "otsi", "pseudo_labels.acr.background is 'otsi'; did you mean 'otsu'?"),
    key("predictions.deeplab.background_weight", 0, "predictions.deeplab.background_weight is 0.0, but must be positive"),
    key("predictions.deeplab.scales", [0.5, -1], "predictions.deeplab.scales[1] is -1.0, but must be positive"),
    key(
        "tables.table_3.rows",
        [{"name": "ACR", "predictions": "deeplab_crv"}],
        "tables.table_3.rows[0].predictions is 'deeplab_crv', which `predictions` does not define; did you mean 'deeplab_crf'?",
    ),
    key("execution.shards", 0, "execution.shards is 0, but must be positive"),
    key("execution.batch", 0, "execution.batch is 0, but must be positive"),
    key(
        "execution.device",
        "gpu",
        "execution.device is 'gpu', but must be auto, cpu, cuda, or one of several GPUs such as cuda:1",
    ),
    key(
        "execution.processes",
        3,
        "classifiers.acr.training.batch_size is 4, which the 3 processes of execution.processes cannot share out equally; "
        "make it a multiple of 3 or change execution.processes",
    ),
]


# ---- lists, labels, photographs and masks ----------------------------------------------------------------------------------


def data(name: str, spoil: Callable[[Devkit], object], message: str, **keys: object) -> Row:
    """The check of a small devkit that `spoil` has spoilt; a message without a log is looked for in the log."""

    def prepare(folder: Path) -> Content:
        spoil(plain(folder / "voc"))
        (folder / SPLITS).mkdir(parents=True)
        (folder / SPLITS / "source.json").write_text("{}\n")
        content = configuration()
        content["datasets"]["micro"] |= keys
        return content

    options = (str(SPLITS / "train.csv"), "--allowed-rules", "splits")
    return Row(name, f"error: {message} (log: logs/micro/splits/splits.log)", prepare, options)


def fine(row: Row) -> Row:
    """The row as one that does not end the run: its message stands in the log of the splits."""
    message = row.message.removeprefix("error: ").removesuffix(" (log: logs/micro/splits/splits.log)")
    return row._replace(message=message, status=0, told_in="logs/micro/splits/splits.log")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


def left_of(path: Path) -> str:
    """What Pillow has left of a photograph that is cut short."""
    try:
        Image.open(path).load()
    except OSError as error:
        return "".join(re.findall(r"\((\d+) bytes", str(error)))
    return ""


def save(path: Path, pixels: np.ndarray) -> None:
    Image.fromarray(pixels).save(path)


def relist(devkit: Devkit, *ids: str) -> None:
    """Lists `ids` for training; one that is new is named in the table of labels, and its photograph is one of a's."""
    devkit.listed["train"] = list(ids)
    devkit.labels |= dict.fromkeys(ids, "cat")
    devkit.write_lists()


def rename(devkit: Devkit, old: str, new: str) -> None:
    devkit.photograph(old).rename(devkit.photograph(new))
    devkit.mask(old).rename(devkit.mask(new))
    relist(devkit, *(new if image_id == old else image_id for image_id in devkit.listed["train"]))


FOLDER = "voc/VOC2012"
LISTS = f"{FOLDER}/ImageSets/Segmentation"
TRUTH = np.zeros((60, 80), np.uint8)
NAMED = "which cannot name files; leave out folders, leading dots and line ends"
MODE = "but a mask must be an 8-bit palette or grey PNG; save it again with class index + 1 as the value of each pixel"
CUT = "image file is truncated ({left} bytes not processed)"  # how many depends on the version of libjpeg
WHOLE = "train: 3 images, 3 of them with a mask"

DATA = [
    data(
        "no list",
        lambda kit: kit.list("train").unlink(),
        f"{LISTS}/train.txt does not exist, but must list the images of a split; check the data set's root and splits",
    ),
    data(
        "an empty list",
        lambda kit: kit.list("val").write_text("\n"),
        "split 'val' is empty, but must list at least one image; check the data set's lists",
    ),
    data(
        "an image listed twice",
        lambda kit: relist(kit, "a", "b", "a"),
        "split 'train' lists image 'a' twice; each image must be listed once",
    ),
    data("an id that climbs out", lambda kit: relist(kit, "a", "../a"), f"{LISTS}/train.txt lists the image '../a', {NAMED}"),
    data("an id of dots", lambda kit: relist(kit, ".."), f"{LISTS}/train.txt lists the image '..', {NAMED}"),
    data("an absolute id", lambda kit: relist(kit, "/etc/a"), f"{LISTS}/train.txt lists the image '/etc/a', {NAMED}"),
    data("a hidden id", lambda kit: relist(kit, ".a"), f"{LISTS}/train.txt lists the image '.a', {NAMED}"),
    data(
        "an endless id",
        lambda kit: relist(kit, "a" * 181),
        f"{LISTS}/train.txt lists the image '{'a' * 181}' of 181 bytes; give it a name of at most 180",
    ),
    data(
        "a list that is not UTF-8",
        lambda kit: kit.list("train").write_bytes(b"a\nK\xe4se\n"),
        f"{LISTS}/train.txt is not UTF-8 text (byte 3 is none); save it as UTF-8",
    ),
    data(
        "an image without a label",
        lambda kit: kit.table.write_text("image_id,labels\na,cat\n"),
        f"{FOLDER}/labels.csv has no row for image 'b' of the split; add it, or take the image out of the list",
    ),
    data(
        "an unknown class",
        lambda kit: kit.table.write_text("image_id,labels\na,cat\nb,cat unicorn\n"),
        f"image 'b' has the label 'unicorn', which is no class; it must be one of {', '.join(CLASSES)}",
    ),
    data(
        "labels listed twice",
        lambda kit: kit.table.write_text("image_id,labels\na,cat\na,dog\n"),
        f"{FOLDER}/labels.csv lists image 'a' twice; each image must be listed once",
    ),
    data(
        "labels under other names",
        lambda kit: kit.table.write_text("image;labels\na;cat\n"),
        f"{FOLDER}/labels.csv has the columns ['image;labels'], but must have image_id and labels",
    ),
    data(
        "no photograph",
        lambda kit: kit.photograph("b").unlink(),
        f"{FOLDER}/JPEGImages/b.jpg does not exist, but an image was expected there; check the data set's root",
    ),
    data(
        "no mask",
        lambda kit: kit.mask("b").unlink(),
        f"{FOLDER}/SegmentationClass/b.png does not exist, but an image was expected there; check the data set's root",
    ),
    data(
        "a mask of another size",
        lambda kit: write_mask(kit.mask("b"), TRUTH.T),
        f"mask {FOLDER}/SegmentationClass/b.png is 80 x 60 pixels, but its image is 60 x 80; "
        "make it again at the size of its image",
    ),
    data(
        "a mask with a value beyond the classes",
        lambda kit: write_mask(kit.mask("b"), TRUTH + 21),
        f"mask {FOLDER}/SegmentationClass/b.png holds the value 21, but the values of 20 classes are 0 (background) to 20 "
        "and 255 (void); make it again with those",
    ),
    data(
        "a mask in colour",
        lambda kit: write_image(kit.mask("b"), np.dstack([TRUTH] * 3)),
        f"{FOLDER}/SegmentationClass/b.png has pixels of mode RGB, {MODE}",
    ),
    data(
        "a mask of 16 bits",
        lambda kit: save(kit.mask("b"), TRUTH.astype(np.uint16)),
        f"{FOLDER}/SegmentationClass/b.png has pixels of mode I;16, {MODE}",
    ),
    data(
        "a mask that is empty",
        lambda kit: kit.mask("b").write_bytes(b""),
        f"mask {FOLDER}/SegmentationClass/b.png cannot be read as an image (it is empty); replace it",
    ),
    data(
        "a photograph cut short where that is fatal",
        lambda kit: cut(kit.photograph("b")),
        f"{FOLDER}/JPEGImages/b.jpg cannot be read as an image ({CUT}); "
        "replace it, or set on_unreadable of the data set to skip",
        on_unreadable="fail",
    ),
    data(
        "no photograph that can be read",
        lambda kit: kit.photograph("d").write_text("text"),
        "none of the 1 photographs of split 'val' can be read "
        f"({FOLDER}/JPEGImages/d.jpg: it is in no format of images); replace them",
    ),
    fine(
        data(
            "a photograph cut short",
            lambda kit: cut(kit.photograph("b")),
            f"train: {FOLDER}/JPEGImages/b.jpg cannot be read as an image ({CUT}) and is left out",
        )
    ),
    fine(
        data(
            "text named as a photograph",
            lambda kit: kit.photograph("b").write_text("text"),
            f"train: {FOLDER}/JPEGImages/b.jpg cannot be read as an image (it is in no format of images) and is left out",
        )
    ),
    fine(
        data(
            "an empty photograph",
            lambda kit: kit.photograph("b").write_bytes(b""),
            "train: 2 images, 2 of them with a mask",
        )
    ),
    fine(data("a byte order mark", lambda kit: kit.write_lists(mark=BYTE_ORDER_MARK), WHOLE)),
    fine(data("line ends of Windows", lambda kit: kit.write_lists(end="\r\n"), WHOLE)),
    fine(data("an id with spaces", lambda kit: rename(kit, "b", "a  b c"), WHOLE)),
    fine(data("an id beyond ASCII", lambda kit: rename(kit, "b", "Käse 日本 🐈"), WHOLE)),
    fine(data("a grey mask", lambda kit: save(kit.mask("b"), TRUTH), WHOLE)),
]


# ---- weights, devices, and what becomes unreadable later -------------------------------------------------------------------


def _write_splits(recipe: str, folder: Path) -> None:
    write_json(folder / "source.json", {})
    write_splits(recipe=recipe, execution={"workers": 0}, manifest=folder / "source.json", drawn=None, folder=folder)


def job(name: str, rule: str, target: str, spoil: Callable[[Path, Content], object], message: str) -> Row:
    """One rule alone on a devkit whose splits have been checked; `spoil` gets the folder and the configuration."""

    def prepare(folder: Path) -> Content:
        plain(folder / "voc")
        recipe = canonical(Voc12(root=str(folder / "voc"), train="train"))
        _write_splits(recipe, folder / SPLITS)
        (folder / SPLITS / "provenance.json").write_text("{}\n")
        content = configuration()
        spoil(folder, content)
        return content

    return Row(name, f"error: {message}", prepare, (target, "--allowed-rules", rule))


def classifier(name: str, spoil: Callable[[Path, Content], object], message: str) -> Row:
    log = "logs/micro/classifiers/acr.log"
    return job(name, "classifier", "results/micro/classifiers/acr/model.safetensors", spoil, f"{message} (log: {log})")


def weights(name: str, spoil: Callable[[Path, Content], object], message: str) -> Row:
    return job(name, "weights", "data/weights/net.safetensors", spoil, f"{message} (log: logs/weights/net.log)")


def offered(write: Callable[[Path], object], **keys: object) -> Callable[[Path, Content], None]:
    """Offers a file as weights."""

    def spoil(folder: Path, content: Content) -> None:
        content["weights"] = {"net": {"model": "resnet10t", **keys}}
        write(folder / "net.pth")

    return spoil


def other_network(folder: Path, content: Content) -> None:
    """Starts the classifier from tensors of which one is its own, one is too small, and the rest are missing."""
    content["weights"] = {"net": {"model": "resnet10t"}}
    content["classifiers"]["acr"]["weights"] = "net"
    tensors = {"cls_token": np.zeros((1, 1, 96), np.float32), "pos_embed": np.zeros((1, 5, 96), np.float32)}
    (folder / "data/weights").mkdir(parents=True)
    save_file(tensors, folder / "data/weights/net.safetensors")
    (folder / "data/weights/net.provenance.json").write_text("{}\n")


def damaged_later(folder: Path, content: Content) -> None:
    for photograph in (folder / "voc").rglob("*.jpg"):
        photograph.write_bytes(b"")
    content["execution"]["workers"] = 1


OTHER = "get it from where you trust it, or give weights saved as safetensors"
CALL = f"net.pth names 'builtins.print', which weights of a network never need, and which was not run; {OTHER}"
DAMAGED = (
    "net.pth is cut short, or not what torch.save writes of a state dict; get it again, or give weights saved as safetensors"
)
UNSAFE = "net.pth is not a readable safetensors file (Error while deserializing header: {}); give weights saved as safetensors"
NETWORKS = [
    weights("weights that would call", offered(lambda path: path.write_bytes(pickle.dumps(print)), file="net.pth"), CALL),
    weights(
        "weights without a network",
        offered(Path.touch),
        "weights.model is 'resnet10t', which could not be fetched from timm's hub; "
        "connect this machine to the network, or give a local `file` of them",
    ),
    classifier(
        "weights of another architecture",
        other_network,
        "data/weights/net.safetensors does not fit the network (cls_token is (1, 1, 96) instead of (1, 1, 64), "
        "pos_embed is (1, 5, 96) instead of (1, 145, 64), patch_embed.body.0.0.weight is missing and 67 more); "
        "give weights of the recipe's backbone and options",
    ),
    classifier(
        "a GPU where none is",
        lambda folder, content: content["execution"].update(device="cuda"),
        "execution.device is 'cuda', but torch sees no GPU; set it to auto or cpu",
    ),
    classifier(
        "photographs damaged after the splits were checked",
        damaged_later,
        "{folder}/voc/VOC2012/JPEGImages/c.jpg cannot be read as an image (it is empty); replace it, "
        "or run snakemake with --forcerun splits, which leaves unreadable photographs out",
    ),
]


def fetched(name: str, make: Callable[[Path], object], message: str) -> Row:
    """The rule that finds or downloads a data set."""

    def prepare(folder: Path) -> Content:
        make(folder)
        return configuration()

    where = "results/micro/splits/source.json"
    return Row(name, f"error: {message} (log: logs/micro/splits/source.log)", prepare, (where,))


CLOSED = "http://127.0.0.1:9"  # where nothing listens
REASON = f"<urlopen error [Errno {errno.ECONNREFUSED}] {os.strerror(errno.ECONNREFUSED)}>"
VOC = published("voc12").archives["trainval"]
REFUSED = "; ".join(f"{url}: {REASON}" for url in VOC.urls)
ROOTS = [
    fetched(
        "no root and no network",
        lambda folder: None,
        f"{VOC.name} cannot be downloaded ({REFUSED}); put it into a folder that execution.mirrors names, or run again later",
    ),
    fetched(
        "a root that is something else",
        lambda folder: (folder / "voc" / "holiday").mkdir(parents=True),
        f"voc exists but lacks VOC2012/JPEGImages; put VOCdevkit/VOC2012 of {VOC.name} there as VOC2012, "
        "or let root name a folder that is empty or absent to have all of it downloaded",
    ),
]

ROWS = [*ROOTS, *NETWORKS, *DATA, *CONFIGURATION]  # the slowest first: two run at a time


@pytest.fixture(scope="module")
def answers(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, dict]]:
    """The folder and the answer of each row that is asked for, by its name."""
    asked = {item.callspec.params["row"] for item in request.session.items if item.originalname == TABLE.__name__}
    rows = [row for row in ROWS if row in asked]
    folder = tmp_path_factory.mktemp("rows")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CUDA_VISIBLE_DEVICES", "")
        patch.setenv("HF_HUB_OFFLINE", "1")
        for kind in ("http", "https"):
            patch.setenv(f"{kind}_proxy", CLOSED)
        found = plans([write(folder / str(number), row) for number, row in enumerate(rows)])
    return {row.name: (folder / str(number), each) for number, (row, each) in enumerate(zip(rows, found, strict=True))}


@pytest.mark.slow
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_bad_input_is_one_sentence_and_ends_with_its_status(row: Row, answers: dict[str, tuple[Path, dict]]) -> None:
    folder, answer = answers[row.name]
    assert answer["status"] == row.status, answer["output"]
    message = row.message.replace("{folder}", str(folder)).replace("{left}", left_of(folder / FOLDER / "JPEGImages/b.jpg"))
    if row.told_in:
        assert any(line.endswith(f": {message}") for line in (folder / row.told_in).read_text().splitlines())
    else:
        assert message in answer["output"].splitlines(), answer["output"]
    if row in DATA and row.status:
        assert not list((folder / SPLITS).glob("*.csv")), "what is refused leaves nothing behind"


TABLE = test_bad_input_is_one_sentence_and_ends_with_its_status


def test_the_table_has_at_least_forty_rows_of_different_names() -> None:
    assert len({row.name for row in ROWS}) == len(ROWS) >= 40


# ---- networks and files of the pipeline itself, in this process, which has torch already -------------------------------------


def call(folder: Path, function: Callable[..., object], /, **given: object) -> object:
    """What a process ends with that calls a function as a job: a text is printed, and the exit status 1."""
    stand_in = SimpleNamespace(log=[str(folder / "log")], params={}, input={}, config={})
    with pytest.raises(SystemExit) as ended, run_as(stand_in):
        function(**given)
    return ended.value.code


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: torch.save({}, path), f"net.pth holds no tensor; {OTHER}"),
        (lambda path: path.write_bytes(pickle.dumps({})), DAMAGED),
        (lambda path: path.write_bytes(pickle.dumps(print)), CALL),
        (lambda path: path.write_bytes(b""), UNSAFE.format("header too small")),
        (lambda path: path.write_text("a text that is longer"), UNSAFE.format("header too large")),
        (
            lambda path: save_file({}, path.with_name("other")),
            "net.pth is not there; name a file of weights saved as safetensors",
        ),
    ],
    ids=["torch's archive of nothing", "a pickle", "a pickle that would call", "empty", "text", "missing"],
)
def test_files_that_are_no_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[Path], object], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    make(Path("net.pth"))
    recipe = canonical(Weights(model="resnet10t", file="net.pth"))
    ended = call(tmp_path, fetch_weights, recipe=recipe, weights="net.safetensors")
    assert ended == f"error: {message} (log: {tmp_path / 'log'})"
    assert not Path("net.safetensors").exists()


@pytest.mark.parametrize(
    ("backbone", "message"),
    [
        ("vit_stem8_69", "backbone is 'vit_stem8_69', which timm does not know; did you mean 'vit_stem8_96'?"),
        (
            "resnet10t",
            "backbone is 'resnet10t', which has no class token or only one size of images; choose a ViT or DeiT of timm",
        ),
        (
            "swin_tiny_patch4_window7_224",
            "backbone is 'swin_tiny_patch4_window7_224', which has no class token or only one size of images; choose a ViT or "
            "DeiT of timm",
        ),
    ],
)
def test_backbones_that_are_none(tmp_path: Path, backbone: str, message: str) -> None:
    ended = call(tmp_path, VitClassifier, backbone=backbone, classes=2, normalisation="native")
    assert ended == f"error: {message} (log: {tmp_path / 'log'})"


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        ("resnet10tt", "which timm does not know; did you mean 'resnet10t'?"),
        ("resnet83", "which timm does not know; did you mean 'resnet38'?"),
        ("resnet38", "of which timm's hub has no weights; give a local `file` of them"),
    ],
)
def test_initial_weights_that_the_hub_does_not_have(tmp_path: Path, model: str, reason: str) -> None:
    ended = call(tmp_path, fetch_weights, recipe=canonical(Weights(model=model)), weights=tmp_path / "net.safetensors")
    message = f"weights.model is {model!r}, {reason}"
    assert ended == f"error: {message} (log: {tmp_path / 'log'})"


@pytest.fixture
def split(tmp_path: Path) -> Path:
    """The table of the photographs a, b and c."""
    _write_splits(canonical(Voc12(root=str(plain(tmp_path / "voc").folder.parent), train="train")), tmp_path / "splits")
    return tmp_path / "splits" / "train.csv"


def test_shards_with_a_gap(split: Path, tmp_path: Path) -> None:
    for number, names in enumerate(("a", "c")):
        write_arrays(tmp_path / f"{number}.npz", [(name, TRUTH) for name in names])
    given = {"split": str(split), "shards": [f"{tmp_path}/0.npz", f"{tmp_path}/1.npz"]}
    message = f"error: no shard holds 'b' (1 of 3 are missing); run the shards again (log: {tmp_path / 'log'})"
    assert call(tmp_path, merge_maps, output=f"{tmp_path}/maps.npz", **given) == message
    assert call(tmp_path, merge_masks, folder=f"{tmp_path}/masks", **given) == message
    assert not (tmp_path / "maps.npz").exists()
    assert not (tmp_path / "masks").exists()


def test_maps_that_miss_an_image(split: Path, tmp_path: Path) -> None:
    write_arrays(tmp_path / "maps.npz", [("a", np.zeros((1, 2, 2), np.float16))])
    given = {"split": split, "maps": tmp_path / "maps.npz", "model": None, "execution": {"device": "cpu"}, "made_from": {}}
    recipe = canonical(PseudoLabels(seeds="acr"))
    ended = call(tmp_path, pseudo_label_shard, recipe=recipe, shard="0-of-1", output=tmp_path / "masks.npz", **given)
    assert ended == f"error: {tmp_path}/maps.npz holds no array 'b'; delete it and run again (log: {tmp_path / 'log'})"


def test_objects_in_an_archive_are_never_unpickled(split: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "maps.npz", a=np.array([{}], dtype=object))
    with pytest.raises(ValueError, match="Object arrays cannot be loaded"):
        Arrays(tmp_path / "maps.npz")["a"]


# ---- what is odd but fine, from the photographs to the report ----------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run on `odd`, one recipe a stage; two shards share the only photograph of val."""
    folder = tmp_path_factory.mktemp("odd")
    odd(folder / "voc")
    content = configuration(shards=2)
    content["affinities"]["psa"] |= {"seeds": "acr", "labels": {"crf": {"iterations": 2}}}
    content["predictions"]["deeplab_crf"] |= {"crf": {"iterations": 2}}
    for section, name in (
        ("classifiers", "untrained"),
        ("seeds", "untrained"),
        ("seeds", "acr_star"),
        ("predictions", "deeplab"),
    ):
        del content[section][name]
    del content["tables"]["table_2"]["rows"][0]
    (folder / "config.yaml").write_text(yaml.safe_dump(content))
    finished = snakemake(folder, config=[folder / "config.yaml"])
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert (
        "1 photograph was left out (1: it cannot be read as an image); see splits/skipped.csv." in finished.stdout.splitlines()
    )
    return folder


TRAIN = [*(f"kind {kind}" for kind in ("L", "RGBA", "P", "CMYK", "turned")), "one pixel", "one row", "large"]
TRAIN += ["Käse 日本 e\u0301"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("folder", "image_id"),
    [
        *(("pseudo_labels/acr", image_id) for image_id in TRAIN),
        ("predictions/deeplab_crf/val", "a, b & <c>; #100%"),
    ],
)
def test_an_odd_photograph_gets_a_mask_of_its_size(whole: Path, folder: str, image_id: str) -> None:
    size = image_size(whole / FOLDER / "JPEGImages" / f"{image_id}.jpg")
    expected = {"large": LARGE, "a, b & <c>; #100%": LARGE, "one pixel": (1, 1), "one row": (1, 300)}
    assert size == expected.get(image_id, (60, 80))
    assert read_mask(whole / "results/micro" / folder / f"{image_id}.png").shape == size


@pytest.mark.slow
def test_nothing_lies_outside_of_its_folder(whole: Path) -> None:
    names = {path.stem for path in (whole / "results/micro/pseudo_labels/acr").glob("*.png")}
    assert names == {*TRAIN}
    assert {path.name for path in whole.iterdir()} == {"voc", "config.yaml", "results", "logs", ".snakemake"}


@pytest.mark.slow
def test_the_photograph_that_was_left_out_stands_in_the_report(whole: Path) -> None:
    page = (whole / "results/micro/report.html").read_text(encoding="utf-8")
    assert "1 photograph was left out (1: it cannot be read as an image)" in page
    assert f"train: {FOLDER}/JPEGImages/damaged.jpg (it cannot be read as an image (image file is truncated" in page
    assert "a, b &amp; &lt;c&gt;; #100%" in page
    assert len(page) < 10 * 2**20


@pytest.mark.slow
def test_a_photograph_of_20_megapixels_needs_neither_hours_nor_all_of_the_memory(whole: Path) -> None:
    for path in whole.rglob("results/micro/**/*provenance.json"):
        assert read_json(path)["peak_memory_mb"] < 4000, path
