"""The cluster's profile speaks of every rule that becomes a job there, and of no other."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
PROFILE = yaml.safe_load((ROOT / "profiles/slurm/config.yaml").read_text())
TEXT = "\n".join(path.read_text() for path in [ROOT / "Snakefile", *sorted((ROOT / "workflow/rules").glob("*.smk"))])
BASES = {rule: base for base, rule in re.findall(r"^use rule (\w+) as (\w+)", TEXT, flags=re.M)}
RULES = set(re.findall(r"^rule (\w+):", TEXT, flags=re.M)) | set(BASES)
LOCAL = set(re.search(r"^localrules:\n((?:    \w+,\n)+)", TEXT, flags=re.M)[1].replace(",", "").split())
NEVER = {"train", "figures"}  # a pattern that others are made of; a target without a command


def trains(rule: str) -> bool:
    return rule == "train" or (rule in BASES and trains(BASES[rule]))


def test_every_rule_that_becomes_a_job_has_resources() -> None:
    assert set(PROFILE["set-resources"]) == RULES - LOCAL - NEVER


@pytest.mark.parametrize("rule", sorted(r for r in RULES - NEVER if trains(r)))
def test_every_training_gets_a_gpu_and_more_time_each_attempt(rule: str) -> None:
    asked = PROFILE["set-resources"][rule]
    assert asked["gpu"] == 1 and all("attempt" in asked[name] for name in ("mem_mb", "runtime"))


def test_resources_stand_in_the_profile_alone() -> None:
    found = re.findall(r"^    resources:\n((?:        .*\n)+)", TEXT, flags=re.M)
    assert found == ['        launch="python",\n']


def test_only_short_steps_share_a_job() -> None:
    assert set(PROFILE["groups"]) <= RULES and not any(trains(rule) for rule in PROFILE["groups"])
