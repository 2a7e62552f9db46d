"""Pack the images of one part of a data set into a few shards with an index."""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # the project, not scripts/: these names shadow packages

from lt.script import call
from lt.stages.pack import pack

call(pack, __doc__)
