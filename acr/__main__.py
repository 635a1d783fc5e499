"""`python -m acr`: what an artefact came from, artefacts in others' formats, and others' labels as a table."""

import argparse
import shutil
import sys
from collections.abc import Sequence

# what a command needs is imported when it runs: none waits for the others' libraries

FORMATS = "dictionaries and heat-maps of seeds, coco and mmsegmentation of masks"


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
    command = commands.add_parser("explain", help="print what an artefact came from, back to the data")
    command.add_argument("path", help="a folder or file below results, such as results/NAME/report.html")
    command.set_defaults(run=_explain)
    command = commands.add_parser("export", help="write seeds, pseudo labels or predictions in a format of others")
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
