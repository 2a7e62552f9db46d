"""A script is a function and its docstring: the function's arguments are the command's options."""

from __future__ import annotations

import argparse
import inspect
import sys
from collections.abc import Callable
from pathlib import Path

from lt.errors import run_main


def call(function: Callable[..., object], doc: str) -> None:
    """Parse the command line by the function's signature, run it, and keep a log of its own per job."""
    parser = argparse.ArgumentParser(description=doc)
    parameters = inspect.signature(function).parameters
    for name, parameter in parameters.items():
        kind = int if "int" in str(parameter.annotation) else str
        several = "list" in str(parameter.annotation)
        required = parameter.default is inspect.Parameter.empty
        parser.add_argument(
            f"--{name}", type=kind, required=required, default=None if required else parameter.default,
            nargs="+" if several else None,
        )  # fmt: skip
    if "log" not in parameters:
        parser.add_argument("--log")
    given = vars(parser.parse_args())
    log = given["log"] if "log" in parameters else given.pop("log")
    if log:
        Path(log).parent.mkdir(parents=True, exist_ok=True)
        with open(log, "a") as file:
            file.write(" ".join(["$ python", *sys.argv]) + "\n")
    run_main(lambda: function(**given), log=log)
