"""Make one results table: csv, md and tex."""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # the project, not scripts/: these names shadow packages

from lt.script import call
from lt.stages.tabulate import tabulate

call(tabulate, __doc__)
