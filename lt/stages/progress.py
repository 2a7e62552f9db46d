"""Progress: a line that moves on a terminal, plain lines in a log, TensorBoard where it is asked for."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path


class Progress:
    """`LT_TENSORBOARD=<folder>` writes event files there as well."""

    def __init__(self, log: str | Path | None, *, total: int) -> None:
        self.path, self.total = Path(log) if log else None, total
        self.file, self.board, self.shown = None, None, 0.0

    def __enter__(self) -> Progress:
        if self.path:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.file = open(self.path, "a", buffering=1)
        if os.environ.get("LT_TENSORBOARD"):
            from torch.utils.tensorboard import SummaryWriter

            name = self.path.with_suffix("") if self.path else Path("run")
            self.board = SummaryWriter(str(Path(os.environ["LT_TENSORBOARD"]) / name))
        return self

    def __exit__(self, *error: object) -> None:
        for each in (self.file, self.board):
            if each:
                each.close()

    def line(self, text: str) -> None:
        stamp = time.strftime("%H:%M:%S")
        print(f"{stamp} {text}", file=self.file or sys.stderr, flush=True)

    def epoch(self, row: dict) -> None:
        shown = {k: v for k, v in row.items() if k != "epoch" and v is not None}
        self.line(f"epoch {row['epoch']:>4}/{self.total}  " + "  ".join(f"{k} {v:.5g}" for k, v in shown.items()))
        if self.board:
            for key, value in shown.items():
                self.board.add_scalar(key, value, row["epoch"])

    def step(self, epoch: int, step: int, steps: int) -> None:
        """At most twice a second, and only where somebody looks."""
        if sys.stderr.isatty() and time.monotonic() - self.shown > 0.5:
            self.shown = time.monotonic()
            print(f"\repoch {epoch + 1}/{self.total} step {step}/{steps} ", end="", file=sys.stderr, flush=True)
