"""`python -m acr explain PATH`: what an artefact came from."""

import argparse
import shutil
import sys
from collections.abc import Sequence

from acr.explain import explain


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs one command; an error that is the user's to mend is one sentence and exit code 1."""
    parser = argparse.ArgumentParser(prog="python -m acr", description=__doc__.partition(":")[0].strip("`"))
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("explain", help="print what an artefact came from, back to the data")
    command.add_argument("path", help="a folder or file below results, such as results/NAME/report.html")
    chosen = parser.parse_args(arguments)
    try:
        sys.stdout.write(explain(chosen.path, shutil.get_terminal_size((100, 24)).columns) + "\n")
    except ValueError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
