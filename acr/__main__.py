"""`python -m acr`: trained networks on any photographs, what an artefact came from, artefacts and labels in others' formats."""

import argparse
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

# what a command needs is imported when it runs: none waits for the others' libraries

FORMATS = "dictionaries and heat-maps of seeds, coco and mmsegmentation of masks, onnx of segmenters"
DEVICE = "auto (the default: a free GPU, else the CPU), cpu, cuda, or one of several GPUs as cuda:1"


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs one command; an error that is the user's to mend is one sentence and exit code 1."""
    chosen = _parser().parse_args(arguments)
    try:
        chosen.run(chosen)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m acr", description=__doc__.partition(": ")[2])
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_predict(commands)
    _add_localize(commands)
    command = commands.add_parser("explain", help="print what an artefact came from, back to the data")
    command.add_argument("path", help="a folder or file below results, such as results/NAME/report.html")
    command.set_defaults(run=_explain)
    command = commands.add_parser("export", help="write seeds, masks or a segmenter in a format of others")
    command.add_argument("folder", help="such as results/NAME/seeds/RECIPE or results/NAME/predictions/RECIPE/SPLIT")
    command.add_argument("--as", dest="form", metavar="FORMAT", required=True, help=FORMATS)
    command.add_argument("-o", "--output", metavar="OUT", required=True, help="a new or empty folder")
    command.set_defaults(run=_export)
    command = commands.add_parser("labels", help="write a dictionary of labels such as cls_labels.npy as a table image,labels")
    command.add_argument("file", help="an .npy of {image id: vector of 0 and 1}, which is never unpickled, or an .npz")
    command.add_argument("--classes", nargs="+", metavar="NAME", required=True, help="voc, coco, or all names in order")
    command.add_argument("-o", "--output", metavar="CSV", required=True)
    command.set_defaults(run=_labels)
    command = commands.add_parser("reproducing", help="print docs/reproducing.md: paper, official code, ours")
    command.set_defaults(run=_reproducing)
    return parser


def _add_predict(commands: Any) -> None:
    command = commands.add_parser("predict", help="write masks of photographs, by a segmenter or as predictions were made")
    command.add_argument("images", nargs="+", metavar="IMAGE_OR_FOLDER", help="folders are searched with all below them")
    command.add_argument(
        "-m", "--model", required=True, help="results/NAME/segmenters/RECIPE or results/NAME/predictions/RECIPE"
    )
    command.add_argument("-o", "--output", metavar="OUT", required=True, help="gets masks/, areas.csv and overlays/")
    command.add_argument("--scales", nargs="+", type=float, metavar="S", help="at which photographs are seen (0.5 0.75 1)")
    command.add_argument("--crf", action="store_true", help="let a dense CRF sharpen the masks")
    command.add_argument("--overlay", action="store_true", help="write the masks over the photographs too")
    command.add_argument("--device", default="auto", help=DEVICE)
    command.set_defaults(run=_predict)


def _add_localize(commands: Any) -> None:
    command = commands.add_parser("localize", help="show what a trained classifier sees on a photograph, and where")
    command.add_argument("image", metavar="IMAGE")
    command.add_argument("-m", "--model", required=True, help="such as results/NAME/classifiers/RECIPE")
    command.add_argument("--classes", nargs="+", metavar="NAME", help="whose maps are drawn; those it sees, if left out")
    command.add_argument("-o", "--output", metavar="PNG", default="maps.png", help="(maps.png)")
    command.add_argument("--device", default="auto", help=DEVICE)
    command.set_defaults(run=_localize)


def _predict(chosen: argparse.Namespace) -> None:
    from acr.inference import photographs_of, predict

    photographs = photographs_of(chosen.images, chosen.output)
    workers = os.cpu_count() or 1
    damaged = predict(_predictor(chosen), photographs, chosen.output, overlays=chosen.overlay, workers=workers)
    if damaged:
        raise ValueError(
            f"{len(damaged)} of {len(photographs)} photographs cannot be read and have no mask: {', '.join(damaged)}"
        )


def _predictor(chosen: argparse.Namespace) -> Any:
    """A segmenter as the command says, or predictions as their recipe does."""
    from acr.config import build
    from acr.inference import CRF, SCALES, Predictor, Segmenter
    from acr.recipes import Predictions

    if "predictions" in Path(chosen.model).resolve().parts[-3:-1]:
        if chosen.scales or chosen.crf:
            raise ValueError(f"--scales and --crf are for segmenters; leave them out, {chosen.model} has its own")
        return Predictor.read(chosen.model, chosen.device)
    scales = build(Predictions, {"segmenter": "", "scales": chosen.scales or SCALES}, "predict").scales
    return Segmenter.read(chosen.model, chosen.device).predictor(scales, CRF if chosen.crf else None)


def _localize(chosen: argparse.Namespace) -> None:
    from acr.images import read_image
    from acr.inference import LIKELY, Localiser, write_maps

    refined, photograph = Localiser.read(chosen.model, chosen.device), read_image(chosen.image)
    tags = refined.tags(photograph)
    seen = [name for name, probability in tags.items() if probability >= LIKELY]
    sys.stdout.writelines(f"{tags[name]:.2f} {name}\n" for name in seen)
    plain = replace(refined, recipe=replace(refined.recipe, refine=False))
    names = chosen.classes or seen or list(tags)[:1]
    write_maps({"unrefined": plain, "refined": refined}, photograph, names, chosen.output)


def _reproducing(chosen: argparse.Namespace) -> None:
    from acr.reproducing import page

    sys.stdout.write(page())


def _explain(chosen: argparse.Namespace) -> None:
    from acr.explain import explain

    sys.stdout.write(explain(chosen.path, shutil.get_terminal_size((100, 24)).columns) + "\n")


def _export(chosen: argparse.Namespace) -> None:
    from acr.exports import export

    export(chosen.folder, chosen.form, chosen.output)


def _labels(chosen: argparse.Namespace) -> None:
    from acr.datasets.label_dictionaries import write_labels

    write_labels(chosen.file, chosen.classes, chosen.output)


if __name__ == "__main__":
    main()
