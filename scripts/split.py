"""Draw a data set's split: training, validation and test lists, class counts."""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # the project, not scripts/: these names shadow packages

from lt.script import call
from lt.stages.split import split

call(split, __doc__)
