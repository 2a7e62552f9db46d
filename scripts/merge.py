"""Merge the weights of several finished stages into one network."""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # the project, not scripts/: these names shadow packages

from lt.script import call
from lt.stages.merge import merge

call(merge, __doc__)
