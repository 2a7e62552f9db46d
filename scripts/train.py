"""Train one stage. Stopped anywhere, the same command goes on from its last state."""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # the project, not scripts/: these names shadow packages

from lt.script import call
from lt.stages.train import train

call(train, __doc__)
