"""What this machine can do at most: matrix products and copies, so that ratios have a frame."""

from __future__ import annotations

import functools
import os
import platform
import time
from typing import Any

ANCHOR_GFLOPS = 96.0  # one core of the machine on which the anchors in ordinary.py were taken


def _best(work: Any, repeats: int = 5) -> float:
    work()
    found = []
    for _ in range(repeats):
        start = time.process_time()
        work()
        found.append(time.process_time() - start)
    return min(found)


@functools.cache
def matmul_gflops(precision: str = "float32", size: int = 768) -> float:
    """One thread, two square matrices."""
    import torch

    torch.set_num_threads(1)
    a, b = (torch.rand(size, size).to(getattr(torch, precision)) for _ in range(2))
    return 2 * size**3 / _best(lambda: torch.mm(a, b)) / 1e9


@functools.cache
def copy_gbytes(megabytes: int = 256) -> float:
    """One thread, read and write counted, beyond every cache."""
    import torch

    torch.set_num_threads(1)
    a = torch.ones(megabytes << 18)
    b = torch.empty_like(a)
    return 2 * a.nbytes / _best(lambda: b.copy_(a)) / 1e9


def has_bf16() -> bool:
    import torch

    from lt import engine

    return engine.supported("bf16", torch.device("cpu")) == "bf16"


def cpu_name() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            names = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()


def idle_cores() -> float:
    return len(os.sched_getaffinity(0)) - os.getloadavg()[0]


def machine() -> dict[str, Any]:
    """What a table of ratios must say of where it was made."""
    import numpy
    import PIL
    import torch

    found: dict[str, Any] = {
        "cpu": cpu_name(),
        "cores": len(os.sched_getaffinity(0)),
        "threads": 1,
        "load": round(os.getloadavg()[0], 1),
        "fp32_gflops": round(matmul_gflops(), 1),
        "copy_gbytes": round(copy_gbytes(), 1),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "pillow": PIL.__version__,
    }
    if has_bf16():
        found["bf16_gflops"] = round(matmul_gflops("bfloat16"), 1)
    return found
