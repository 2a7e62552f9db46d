"""Choose one of the snapshots of a finished training stage."""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # the project, not scripts/: these names shadow packages

from lt.script import call
from lt.stages.choose import choose

call(choose, __doc__)
