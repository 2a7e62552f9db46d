"""What every stage needs: its recipe, its data, its threads."""

from __future__ import annotations

import importlib
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lt import artefact
from lt.errors import UserError


@dataclass(frozen=True)
class Recipe:
    """A recipe file: the resolved numbers of one stage of one run."""

    raw: dict[str, Any]

    @classmethod
    def read(cls, path: str | Path, **expected: type) -> Recipe:
        if not Path(path).is_file():
            raise UserError(f"{path}: no such recipe; run again: snakemake --cores all {path}")
        return cls(artefact.read_json(path, "; delete it and run again", **expected))

    @classmethod
    def of_table(cls, path: str | Path, **expected: type) -> Recipe:
        """The recipe of a table: its rows name the runs."""
        opened = cls.read(path, table=str, rows=list, **expected)
        for number, row in enumerate(opened.raw["rows"], 1):
            if not isinstance(row, dict) or not isinstance(row.get("manifest"), str):
                raise UserError(f"{path}: row {number}: expected 'manifest', the run's; delete it and run again")
        return opened

    @property
    def params(self) -> dict[str, Any]:
        return self.raw["params"]

    @property
    def data(self) -> dict[str, Any]:
        return self.raw["data"]

    @property
    def seed(self) -> int:
        return int(self.raw.get("seed", 0))

    @property
    def num_classes(self) -> int:
        return int(self.data["num_classes"])


def read_metrics(opened: artefact.Artefact, **expected: type) -> dict[str, Any]:
    """What `evaluate` measured."""
    return artefact.read_json(opened / "metrics.json", opened.again, metrics=dict, cost=dict, **expected)


def threads() -> int:
    """What the rule granted (Snakemake exports it), else the cores that this process may use."""
    granted = os.environ.get("OMP_NUM_THREADS") or os.environ.get("SLURM_CPUS_PER_TASK")
    return int(granted) if granted and granted.isdigit() else len(os.sched_getaffinity(0))


def set_threads(count: int | None = None) -> int:
    """Before the first tensor."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    import torch

    torch.set_num_threads(count or threads())
    return torch.get_num_threads()


def open_pack(data: dict[str, Any], split: artefact.Artefact, part: str) -> artefact.Artefact | None:
    """The packed images of a part, which lie beside the split, where the data set is packed.

    Their digest is not computed again, gigabytes in every job: `lt verify` does. Sizes are looked at.
    """
    if not data.get("pack"):
        return None
    opened = artefact.read(split.folder.parent / "pack" / part, verify=False)
    for name, meta in opened.manifest["outputs"].items():
        if not (opened / name).is_file() or (opened / name).stat().st_size != meta["bytes"]:
            raise UserError(f"{opened / name}: not as it was packed; delete {opened.folder} and pack again")
    return opened


def load_source(data: dict[str, Any], part: str, pack: artefact.Artefact | None = None) -> Any:
    """The images and labels of one part of a data set; its images come from the pack where it is packed."""
    from lt.data import sources

    source = sources.load(data, part)
    if not data.get("pack"):
        return source
    if pack is None or pack.manifest["data_digest"] != source.digest:
        raise UserError(f"{source.name}: no pack of these {part} images; run the stage pack again")
    opened = importlib.import_module("lt.data.pack").Pack  # by name: its code is no part of what others run
    return replace(source, pack=opened(pack.folder, data["pack"], in_memory=os.environ.get("LT_PACK") == "memory"))


def open_split(path: str | Path) -> tuple[artefact.Artefact, Any]:
    from lt.data.splits import Split

    opened = artefact.read(path)
    return opened, Split.read(opened.folder)


def open_model(path: str | Path) -> tuple[artefact.Artefact, dict[str, Any]]:
    """The weights of a finished stage."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    opened = artefact.read(path)
    try:
        return opened, load_file(opened / "model.safetensors")
    except SafetensorError:
        raise UserError(f"{opened / 'model.safetensors'}: not a safetensors file; run its stage again") from None
