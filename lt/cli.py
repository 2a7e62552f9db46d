"""`lt`: everything about a project that is not a stage of it. A command's module loads when it is called."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

from lt.errors import run_main

# name -> (module with `arguments(parser)` and `main(given)`, one line)
COMMANDS = {
    "recipes": ("recipes", "list recipes; show the numbers of a run with their origins"),
    "doctor": ("doctor", "check data, lists, weights, devices, drivers; say what is missing and what to type"),
    "status": ("status", "what is done, running, failed or missing; --plan: jobs, hours, storage"),
    "explain": ("explain", "follow a cell of a table back to its data"),
    "effects": ("effects", "what each part of a crossing adds, from the cells that differ in it alone"),
    "verify": ("verify", "re-hash results; report what was changed by hand or no longer fits its parents"),
    "publish": ("publish", "a table with its evidence as small files for a repository"),
    "import": ("importing", "let a checkpoint from elsewhere stand in for a training stage"),
    "replay": ("replay", "run again the step that stopped being a number"),
    "export-imagefolder": ("export", "write a data set's split as a folder of folders"),
    "rehearse": ("rehearse", "write a tree in the exact layout of a data set, with made-up images"),
    "schema": ("schema", "write the JSON schema of params.yaml"),
}


def parser_for(name: str) -> argparse.ArgumentParser:
    module, line = COMMANDS[name]
    parser = argparse.ArgumentParser(prog=f"lt {name}", description=line[0].upper() + line[1:] + ".")
    importlib.import_module(f"lt.commands.{module}").arguments(parser)
    return parser


def overview() -> str:
    rows = "\n".join(f"  {name:20}{line}" for name, (_, line) in COMMANDS.items())
    return f"usage: lt COMMAND ...   (lt COMMAND --help)\n\n{rows}\n"


def run(given: Sequence[str]) -> None:
    """One command line, without the program's name."""
    if not given or given[0] in ("-h", "--help", "help"):
        sys.stdout.write(overview())
        return
    if given[0] == "--version":
        from lt import __version__

        print(f"lt {__version__}")
        return
    name = given[0]
    if name not in COMMANDS:
        from lt.errors import UserError, nearest

        raise UserError(f"no such command '{name}'{nearest(name, COMMANDS)}")
    parser = parser_for(name)
    module = importlib.import_module(f"lt.commands.{COMMANDS[name][0]}")
    module.main(parser.parse_args(given[1:]))


def main() -> None:
    try:
        run_main(lambda: run(sys.argv[1:]))
    except BrokenPipeError:  # `lt recipes list | head`
        sys.stderr.close()


if __name__ == "__main__":
    main()
