"""Take over a finished table from the other driver: `python scripts/adopt.py dvc|snakemake TABLE`."""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # the project, not scripts/: these names shadow packages

from lt.adopt import adopt
from lt.errors import UserError, run_main


def main() -> None:
    if len(sys.argv) != 3:
        raise UserError("adopt: expected: python scripts/adopt.py dvc|snakemake TABLE")
    adopt(*sys.argv[1:])


run_main(main)
