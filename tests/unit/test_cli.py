"""`lt`: quick to start, one line for a mistake, numbers with their origins."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from lt import artefact, cli
from lt.commands.importing import inserted, register
from lt.config import Run
from lt.errors import UserError
from lt.stages import recipe as recipes

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def said(capsys: pytest.CaptureFixture, *words: str) -> str:
    cli.run(words)
    return capsys.readouterr().out


def lt(*words: str, cwd: Path = ROOT) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "lt.cli", *words], cwd=cwd, capture_output=True, text=True)


def test_help_needs_little_time_and_no_torch() -> None:
    command = "import sys; sys.argv = ['lt', '--help']\nfrom lt import cli\ntry: cli.main()\nexcept SystemExit: pass\n"
    command += "import time; print('torch' in sys.modules, time.process_time())"
    done = subprocess.run([sys.executable, "-c", command], cwd=ROOT, capture_output=True, text=True, check=True)
    torch, seconds = done.stdout.splitlines()[-1].split()
    assert torch == "False" and float(seconds) <= 0.6
    assert all(name in done.stdout for name in cli.COMMANDS)


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_explains_itself_without_torch(name: str) -> None:
    command = (
        f"import sys; from lt import cli; print(cli.parser_for({name!r}).format_help()); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", command], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"usage: lt {name}") and done.stdout.splitlines()[-1] == "False"


def test_an_unknown_command() -> None:
    done = lt("recips", "list")
    assert (done.returncode, done.stderr) == (2, "lt: no such command 'recips'; did you mean 'recipes'?\n")


def test_outside_the_project(tmp_path: Path) -> None:
    command = f"import sys; sys.path.insert(0, {str(ROOT)!r})\nfrom lt import cli; cli.main()"
    words = [sys.executable, "-c", command, "status"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr == "lt: params.yaml: no such file; run from the project's root\n"


def test_recipes_list_names_all(capsys: pytest.CaptureFixture) -> None:
    from lt.config import load

    text = said(capsys, "recipes", "list")
    assert all(f"\n{name} " in f"\n{text}" for name in load().params.recipes)
    assert "unverified" in text and "[baselines]" in text
    assert "no source" not in text


def test_recipes_list_shows_the_source_that_a_stage_resolves_to() -> None:
    from lt.commands.recipes import listing
    from lt.config import load

    config, method, compared = load(), "", 0
    for line in listing(config):
        words = line.split()
        if not line.startswith(" "):
            method = words[0]
        elif config.has_dataset(words[0]) and (archs := config.archs(method, words[0])):
            stage = config.stage(Run(words[0], method, archs[0], 0), "evaluate")
            assert line.endswith(stage.source) and (" verified " in line) == stage.verified, (method, line)
            compared += 1
    assert compared > 100


def test_show_gives_every_number_its_origin(capsys: pytest.CaptureFixture) -> None:
    text = said(capsys, "recipes", "show", "digits/balanced_softmax")
    assert text.startswith("run digits/balanced_softmax/resnet8/seed0")
    rows = {line.split()[0]: line for line in text.splitlines() if line.startswith("  ")}
    assert rows["loss"].split()[1:] == [
        "balanced_softmax",
        "params.yaml:",
        "recipes.balanced_softmax.stages.train.loss",
    ]
    assert rows["epochs"].endswith("recipes.ce.sets.digits.stages.train.epochs")
    assert rows["accumulate"].endswith("default")
    for key, value in (("imbalance.n_max", "100"), ("imbalance.imb_factor", "20"), ("holdout.test", "60")):
        assert rows[key].split()[1:] == [value, "params.yaml:", f"datasets.digits.{key}"]


def test_show_names_the_data_set_that_a_number_is_taken_over_from(capsys: pytest.CaptureFixture) -> None:
    text = said(capsys, "recipes", "show", "cifar10_lt_if10_holdout/ce")
    rows = {line.split()[0]: line.split()[1:] for line in text.splitlines() if line.startswith("  ")}
    assert rows["num_classes"] == ["10", "params.yaml:", "datasets.cifar10_lt_if100.num_classes"]
    assert rows["holdout.val"][-1] == "datasets.cifar10_lt_if10_holdout.holdout.val"
    assert rows["holdout.test"] == ["0", "default"]


def test_show_says_where_a_shared_stage_lives(capsys: pytest.CaptureFixture) -> None:
    text = said(capsys, "recipes", "show", "digits/btm/resnet8/seed1", "--stage", "stage1")
    assert "shared: digits/mislas/resnet8/seed1/stage1" in text or "shared: digits/mixup/resnet8/seed1/train" in text


@pytest.mark.parametrize(
    ("run", "wanted"),
    [
        ("digts/ce", "no such data set 'digts'; did you mean 'digits'?"),
        ("digits/cee", "no such recipe 'cee'; did you mean 'ce'?"),
        ("digits/ce/resnet9/seed0", "no such network 'resnet9'; did you mean 'resnet"),
        ("digits/ce/resnet8/0", "expected <dataset>/<method>/<arch>/seed<k>"),
        ("digits/ce/..;ls", "expected <dataset>/<method>/<arch>/seed<k>"),
        ("digits/x_bns_all_one_none", "no such run: stage 1 has no classifier"),
    ],
)
def test_show_of_what_is_not_there(run: str, wanted: str) -> None:
    with pytest.raises(UserError, match=r".") as caught:
        cli.run(["recipes", "show", run])
    assert wanted in str(caught.value) and "\n" not in str(caught.value)


def test_show_says_where_the_recipe_does_not_name_the_network(capsys: pytest.CaptureFixture) -> None:
    note = "note: recipes.ce does not name vit_digits for 'digits'; its networks there: resnet8"
    assert note in said(capsys, "recipes", "show", "digits/ce/vit_digits")
    assert "note:" not in said(capsys, "recipes", "show", "digits/ce")


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ("export-imagefolder digits /proc/foo", "/proc/foo: cannot write"),
        ("rehearse inat18 /proc/foo --pixels none", "/proc/foo: cannot write"),
        ("rehearse cifar10_lt README.md", "README.md: not empty; give a new folder"),
        ("rehearse imagenet_lt X --size 0", "size: expected at least 1, got 0"),
        ("rehearse imagenet_lt X --size -5", "size: expected at least 1, got -5"),
        ("rehearse imagenet_lt X --test -3", "test: expected at least 1, got -3"),
        ("rehearse imagenet_lt X --cap 0", "cap: expected at least 1, got 0"),
        ("schema --out /proc/foo", "/proc/foo: cannot write"),
        ("schema --out docs", "docs: cannot write (Is a directory)"),
    ],
)
def test_what_cannot_be_written_is_one_line(words: str, wanted: str) -> None:
    with pytest.raises(UserError) as caught:
        cli.run(words.split())
    assert str(caught.value).startswith(wanted) and "\n" not in str(caught.value)
    assert not Path("X").exists()


def test_rehearse_and_export(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert said(capsys, "rehearse", "inat18", str(tmp_path / "inat"), "--cap", "1", "--test", "1", "--pixels", "none")
    assert (tmp_path / "inat" / "iNaturalist18_train.txt").is_file()
    text = said(capsys, "export-imagefolder", "digits", str(tmp_path / "out"))
    assert "test 600" in text and len(list((tmp_path / "out" / "test").iterdir())) == 10


def test_status_names_missing_runs_and_the_last_line_of_a_failed_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    import fcntl

    from lt.config import Run, load

    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    monkeypatch.chdir(tmp_path)
    log = tmp_path / "logs/digits_smoke/ce/resnet8/seed0/train.log"
    log.parent.mkdir(parents=True)
    log.write_text("$ python scripts/train.py\nlt: the loss is nan\n")
    home, stage = load().home(Run.parse("digits_smoke/mixup/resnet8/seed0"), "train")  # it may be shared
    lock = tmp_path / "scratch" / str(home) / stage / "lock"
    lock.parent.mkdir(parents=True)
    lock.write_text("process 7 on host")
    measured = {"metrics": {"top1": 1.0}, "cost": {}}
    done = tmp_path / "results/metrics/digits_smoke/balanced_softmax/resnet8/seed0/train"
    run, stage = Run.parse("digits_smoke/balanced_softmax/resnet8/seed0"), "evaluate"
    with artefact.commit(done, recipe=recipes.of_stage(load(), run, stage), inputs={}) as draft:
        (draft / "metrics.json").write_text(json.dumps(measured))
    with open(lock) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        text = said(capsys, "status", "digits_smoke")
    rows = {line.split()[1]: line for line in text.splitlines() if "/seed0/" in line}
    assert rows["digits_smoke/ce/resnet8/seed0/train"].startswith("failed")
    assert "lt: the loss is nan" in rows["digits_smoke/ce/resnet8/seed0/train"]
    assert rows["digits_smoke/mixup/resnet8/seed0/train"].startswith("running")
    assert "process 7 on host" in rows["digits_smoke/mixup/resnet8/seed0/train"]
    assert rows["digits_smoke/balanced_softmax/resnet8/seed0/train"].startswith("done")
    (done / "metrics.json").write_text("{")
    said_now = said(capsys, "status", "digits_smoke")
    assert "damaged  digits_smoke/balanced_softmax/resnet8/seed0/train" in said_now
    assert f"{done.relative_to(tmp_path)}/metrics.json: changed since it was written; delete" in said_now
    assert "table digits_smoke: 1 done" in text


def test_replay_of_what_is_no_capture(tmp_path: Path) -> None:
    started = time.monotonic()
    for text in (None, "not a pickle"):
        if text:
            (tmp_path / "x.pt").write_text(text)
        with pytest.raises(UserError, match="capture"):
            cli.run(["replay", str(tmp_path / "x.pt")])
    assert time.monotonic() - started < 60


PARAMS = """a: 1  # why
recipes: # all of them
  ce: &ce # the first
    paper: x
  plain: # the second
    paper: x

  # next
  bs: {extends: ce}
  long: {
    extends: ce, # with a remark
  }
  same: *ce
  merged: {<<: *ce, title: "a } in a title"} # closes
  runs_in_braces:
    paper: x
    runs: {d/runs_in_braces/n/seed1: {stages: {train: {lr: 0.1}}}}
  last: {paper: x, runs: {}}
tables: {}
"""


@pytest.mark.parametrize("method", ["plain", "bs", "long", "merged", "runs_in_braces", "last"])
def test_entry_in_params_keeps_everything_else(method: str) -> None:
    wanted = yaml.safe_load(PARAMS)
    text = PARAMS
    for seed in (0, 1):  # the second one meets the first
        run = Run("d", method, "n", seed)
        text = inserted(text, run, "train", f'{{"file": "f{seed}"}}')
        layer = wanted["recipes"][method].setdefault("runs", {}).setdefault(str(run), {})
        layer.setdefault("stages", {}).setdefault("train", {})["imported"] = {"file": f"f{seed}"}
    assert yaml.safe_load(text) == wanted
    assert [line.split("#")[1:] for line in text.splitlines() if "#" in line] == [
        line.split("#")[1:] for line in PARAMS.splitlines() if "#" in line
    ]
    others = [line for line in PARAMS.splitlines() if not line.strip().startswith((method, "runs", "}"))]
    assert [line for line in text.splitlines() if line in others] == others


@pytest.mark.parametrize("method", ["ce", "same"])
def test_a_recipe_whose_text_is_another_ones_too_gets_the_lines_to_write(method: str, tmp_path: Path) -> None:
    file = tmp_path / "params.yaml"
    file.write_text(PARAMS)
    wanted = rf"recipes\.{method} shares its text with others .*; write by hand: runs: \{{d/{method}/n"
    with pytest.raises(UserError, match=wanted):
        register(file, Run("d", method, "n", 0), "train", {"file": "f"})
    assert file.read_text() == PARAMS


def test_the_projects_own_recipes_can_take_an_import() -> None:
    """Those whose text others take over (`&name`) get the lines to write instead."""
    text = (ROOT / "params.yaml").read_text()
    wanted = yaml.load(text, Loader=yaml.CSafeLoader)
    wanted = json.loads(json.dumps(wanted))  # no dictionary is another one's
    shared = set(re.findall(r"^  (\w+): &", text, flags=re.M))
    for method in list(wanted["recipes"]):
        if method in shared:
            continue
        run = Run("digits", method, "resnet8", 0)
        text = inserted(text, run, "train", '{"file": "f"}')
        runs = wanted["recipes"][method].setdefault("runs", {})
        runs.setdefault(str(run), {}).setdefault("stages", {})["train"] = {"imported": {"file": "f"}}
    assert yaml.load(text, Loader=yaml.CSafeLoader) == wanted
