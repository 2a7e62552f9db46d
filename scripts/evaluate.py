"""Compute every metric from stored predictions."""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # the project, not scripts/: these names shadow packages

from lt.script import call
from lt.stages.evaluate import evaluate

call(evaluate, __doc__)
