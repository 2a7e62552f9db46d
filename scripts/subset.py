"""Draw the index list of one branch from a split."""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # the project, not scripts/: these names shadow packages

from lt.script import call
from lt.stages.subset import subset

call(subset, __doc__)
