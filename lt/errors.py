"""A user's mistake is one line; an interruption has an exit code of its own."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Callable, Iterable
from typing import NoReturn

EXIT_USER = 2
EXIT_INTERRUPTED = 75  # EX_TEMPFAIL: run the same command again
EXIT_NONFINITE = 76


class UserError(Exception):
    """Shown as one line, without a traceback; exit code 2."""

    code = EXIT_USER


class Interrupted(UserError):
    """A signal or time limit stopped the job after it saved its state."""

    code = EXIT_INTERRUPTED


class NonFinite(UserError):
    """The loss stopped being a number; nothing was updated."""

    code = EXIT_NONFINITE


def nearest(word: str, known: Iterable[str]) -> str:
    """The hint that ends a message about an unknown name."""
    known = [str(k) for k in known]
    close = difflib.get_close_matches(str(word), known, 1)
    if close:
        return f"; did you mean '{close[0]}'?"
    return f"; known: {', '.join(sorted(known))}" if known else ""


def pick(kind: str, name: str, table: dict[str, object]) -> object:
    """`table[name]`, or one line that lists what there is."""
    if name not in table:
        raise UserError(f"unknown {kind} '{name}'{nearest(name, table)}")
    return table[name]


def run_main(main: Callable[[], object], *, log: str | None = None) -> NoReturn:
    """Entry point of every script: user errors become one line on stderr, and in the job's log."""
    try:
        main()
    except UserError as error:
        print(f"lt: {error}", file=sys.stderr)
        if log:
            with open(log, "a") as file:
                file.write(f"lt: {error}\n")
        sys.exit(error.code)
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(0)
