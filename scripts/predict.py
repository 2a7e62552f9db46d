"""Run a network once over a part of the data and store its logits."""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # the project, not scripts/: these names shadow packages

from lt.script import call
from lt.stages.predict import predict

call(predict, __doc__)
