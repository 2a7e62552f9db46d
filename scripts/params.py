"""Write params.yaml in pieces, which DVC's recipe stages depend on."""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # the project, not scripts/: these names shadow packages

from lt.script import call
from lt.stages.sections import params

call(params, __doc__)
