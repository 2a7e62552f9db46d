"""Write recipes: the small files that the drivers compare, one a stage."""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # the project, not scripts/: these names shadow packages

from lt.script import call
from lt.stages.recipe import recipe

call(recipe, __doc__)
