"""Start a script on several ranks: torchrun's options, and the exit code of the rank that stopped first."""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # the project, not scripts/: these names shadow packages

from lt.distributed import launch

sys.exit(launch(sys.argv[1:]))
