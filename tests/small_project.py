"""A small project of its own: the tree without results, a smoke table, its own git and DVC."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("lt", "scripts", "workflow", "profiles", "Snakefile", "dvc.yaml", ".dvc", ".dvcignore", ".gitignore")
PARTS += ("environment.yml", "pyproject.toml", "data/lists/README.md")
LEFT_OUT = shutil.ignore_patterns("__pycache__", "cache", "tmp", "config.local")
TABLE = "results/tables/digits_smoke.csv"
# Torch jobs dominate the time of these tests: the fewest methods that share a stage and fine-tune one.
METHODS = {"baselines": ["ce"], "mixup": ["mixup"], "mislas": ["mislas"], "btm": []}
WITH_BTM = {**METHODS, "btm": ["btm"]}


def environment(base: Path) -> dict[str, str]:
    """The venv's python first on PATH, one thread a job, no state of the user's."""
    names = {f"GIT_{who}_{what}": "lt@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    return {
        **{k: v for k, v in os.environ.items() if not k.startswith(("GIT_", "SNAKEMAKE", "DVC_", "PYTEST"))},
        **names,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "DVC_SITE_CACHE_DIR": str(base / "site-cache"),
        "DVC_NO_ANALYTICS": "1",
        "XDG_CACHE_HOME": str(base / "user-cache"),
        "GIT_CONFIG_GLOBAL": os.devnull,
        "OMP_NUM_THREADS": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }


@dataclass
class Project:
    """A copy of the project and its two drivers."""

    root: Path
    base: Path

    def run(self, *command: str, check: bool = True) -> str:
        done = subprocess.run(
            command,
            cwd=self.root,
            env=environment(self.base),
            capture_output=True,
            text=True,
            timeout=1800,
            check=False,
        )
        text = done.stdout + done.stderr
        assert not check or done.returncode == 0, f"{' '.join(command)}\n{text[-3000:]}"
        return text

    def snakemake(self, *arguments: str) -> set[str]:
        """Run the smoke table; the artefacts that were made, recipes aside."""
        text = self.run("snakemake", "--cores", "2", TABLE, *arguments)
        made = re.findall(r"^(?:local)?rule \w+:\n(?:    input: .*\n)?    output: (.*)$", text, flags=re.M)
        return work(name for line in made for name in line.split(", "))

    def planned(self) -> set[str]:
        return self.snakemake("--dry-run")

    def dvc(self, *arguments: str) -> set[str]:
        """`dvc repro`; the artefacts that were made, recipes aside."""
        return self.ran(self.run("dvc", "repro", *arguments))

    def ran(self, text: str) -> set[str]:
        made = re.findall(r"^Running stage '(.+)':", text, flags=re.M)
        outputs = self.outputs()
        return work(name for stage in made for name in outputs[stage])

    def outputs(self) -> dict[str, list[str]]:
        text = self.run(sys.executable, "-c", "import json, lt.adopt as a\n"
                        "print(json.dumps({s.name: sorted(s.outputs) for s in a.dvc_stages()}))")  # fmt: skip
        return yaml.safe_load(text.strip().splitlines()[-1])

    def status(self) -> list[str]:
        """What `dvc status` names."""
        text = self.run("dvc", "status")
        return re.findall(r"^(\S+):$", text, flags=re.M)

    def adopt(self, driver: str, check: bool = True) -> str:
        return self.run("python", "scripts/adopt.py", driver, "digits_smoke", check=check)

    def edit(self, name: str, old: str, new: str) -> None:
        path = self.root / name
        text = path.read_text()
        assert old in text, f"{name}: nothing like {old!r}"
        path.write_text(text.replace(old, new, 1))

    def copy(self, target: Path) -> Project:
        subprocess.run(["cp", "-a", str(self.root), str(target)], check=True)
        return Project(target, self.base)


def work(names) -> set[str]:
    """Artefacts and tables by their folder or stem; recipes, and the parameters they are resolved from, cost nothing
    and are left out."""
    short = {name.strip().removesuffix("/manifest.json") for name in names}
    short = {name for name in short if "/recipe" not in name and name != "results/params"}
    return {re.sub(r"(\.comparisons)?\.(csv|md|tex|json|html)$", "", name) for name in short}


def small(text: str, methods: dict[str, list[str]]) -> str:
    """params.yaml with a smoke grid; only the recipes that it needs, so that planning is quick."""
    params = yaml.safe_load(text)
    needed = ["ce", "mixup", "mislas", *methods["btm"]]
    params["recipes"] = {name: params["recipes"][name] for name in needed}
    for body in params["recipes"].values():
        body["sets"] = {k: v for k, v in (body.get("sets") or {}).items() if k == "digits"}
    params["datasets"] = {name: params["datasets"][name] for name in ("digits", "imagenet_lt", "imagenet_bal")}
    params["crossings"] = {}
    params["tables"] = {"digits": {"caption": "Digits, small.", "datasets": ["digits"], "methods": needed}}
    own = {k: [] for k, v in params["grid"].items() if isinstance(v, list) and not k.endswith("_nodes")}
    params["grid"] |= {
        **own, "datasets": ["digits_smoke"], "archs": ["resnet8"], "seeds": [0], **methods, "branches": [0, 1],
        "figures": {}, "tables": {"digits_smoke": "results/metrics/digits_smoke"},
    }  # fmt: skip
    return yaml.safe_dump(params, sort_keys=False)


def make(
    root: Path, methods: dict[str, list[str]], *, git: bool = True, params: Callable[[str], str] | None = None
) -> Project:
    """`params` makes the project's params.yaml of ours; the small one with these methods by default."""
    root.mkdir(parents=True)
    for part in PARTS:
        source, target = ROOT / part, root / part
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=LEFT_OUT)
        else:
            shutil.copy2(source, target)
    text = (ROOT / "params.yaml").read_text()
    (root / "params.yaml").write_text(params(text) if params else small(text, methods))
    project = Project(root, root.parent)
    if git:
        project.run("git", "init", "-q")
        project.run("git", "add", "-A")
        project.run("git", "commit", "-q", "-m", "A project")
    else:
        project.run("dvc", "config", "core.no_scm", "true")
    return project
