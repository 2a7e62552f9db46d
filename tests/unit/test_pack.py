"""Packed images: the same pixels, the same bytes after a kill, what cannot be read by its line."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from trees import read_only

from lt import artefact
from lt.config import Config, Run
from lt.data import pack as packs
from lt.data import sources
from lt.errors import UserError
from lt.stages import recipe as recipes
from lt.stages.pack import named
from lt.stages.pack import pack as pack_stage

ROOT = Path(__file__).resolve().parents[2]
KINDS = ("JPEG", "PNG", "grey", "cmyk", "odd")


def photo(number: int, size: tuple[int, int] = (48, 36)) -> Image.Image:
    source = np.random.default_rng(number)
    small = Image.fromarray(source.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    return small.resize(size, Image.Resampling.BICUBIC)


def pictures(folder: Path, count: int = 10, size: tuple[int, int] = (48, 36)) -> list[Path]:
    """Files of every kind that lists hold: JPEG with and without halved colour, grey, CMYK, PNG, odd sizes."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for number in range(count):
        kind, image = KINDS[number % len(KINDS)], photo(number, size)
        image = {"grey": image.convert("L"), "cmyk": image.convert("CMYK")}.get(kind, image)
        image = image.crop((0, 0, size[0] - 1, size[1] - 3)) if kind == "odd" else image
        files.append(folder / f"{number:05d}.{'png' if kind == 'PNG' else 'jpg'}")
        options = {} if kind == "PNG" else {"quality": 85, "subsampling": number % 3}
        image.save(files[-1], format="PNG" if kind == "PNG" else "JPEG", **options)
    return files


def pixels_of(file: Path) -> np.ndarray:
    with Image.open(file) as image:
        return np.asarray(image.convert("RGB"))


def digests(folder: Path) -> dict[str, str]:
    return {p.name: artefact.sha256(p) for p in sorted(folder.glob("*.bin")) + [folder / "index.npy"]}


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packs, "PER_SHARD", 4)


@pytest.mark.parametrize("in_memory", [False, True])
def test_exact_keeps_bytes_and_pixels(tmp_path: Path, small_shards: None, in_memory: bool) -> None:
    files = pictures(tmp_path / "images")
    assert packs.write(tmp_path / "pack", files, mode="exact", processes=2) == ([], 0)
    pack = packs.Pack(tmp_path / "pack", "exact", in_memory=in_memory)
    assert len(pack) == len(files) and len(list((tmp_path / "pack").glob("*.bin"))) == 3
    for number, (file, read) in enumerate(zip(files, pack.sequential(), strict=True)):
        assert pack.content(number).tobytes() == file.read_bytes()
        np.testing.assert_array_equal(pack.pixels(number), pixels_of(file))
        np.testing.assert_array_equal(read, pixels_of(file))
    used = pack.index[:, packs.COLUMNS.index("decoder")]
    assert (used == packs.FAST).sum() >= 6 and (used == packs.PILLOW).sum() >= 4  # PNG and CMYK are Pillow's


def test_a_decoder_that_differs_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files, real = pictures(tmp_path / "images", 3), packs._fast
    packs.write(tmp_path / "pack", files, mode="exact")
    pack = packs.Pack(tmp_path / "pack", "exact")
    assert pack.index[0, 5] == packs.FAST
    monkeypatch.setattr(packs, "_fast", lambda content: real(content) ^ 1)
    packs.fast_is_pillow.cache_clear()
    np.testing.assert_array_equal(pack.pixels(0), pixels_of(files[0]))  # found out at first use
    packs.write(tmp_path / "other", files, mode="exact")
    assert (packs.Pack(tmp_path / "other", "exact").index[:, 5] == packs.PILLOW).all()
    packs.fast_is_pillow.cache_clear()


@pytest.mark.parametrize("mode", ["jpeg256", "raw256"])
def test_other_pixels_have_a_short_side_of_256_at_most(tmp_path: Path, mode: str) -> None:
    files = [*pictures(tmp_path / "large", 2, (600, 400)), *pictures(tmp_path / "small", 1)]
    packs.write(tmp_path / "pack", files, mode=mode)
    pack = packs.Pack(tmp_path / "pack", mode)
    assert [pack.pixels(i).shape for i in range(3)] == [(256, 384, 3), (256, 384, 3), (36, 48, 3)]
    plain = np.asarray(Image.open(files[0]).convert("RGB").resize((384, 256), Image.Resampling.BILINEAR), dtype=int)
    off = np.abs(pack.pixels(0) - plain)
    assert off.max() == 0 if mode == "raw256" else 0 < off.mean() < 3


def test_every_unreadable_image_is_named_by_its_line(tmp_path: Path, small_shards: None) -> None:
    files = pictures(tmp_path / "images")
    files[2].write_bytes(files[2].read_bytes()[:200])
    files[7].unlink()
    (tmp_path / "images" / "00009.jpg").write_bytes(b"")
    problems, _ = packs.write(tmp_path / "pack", files, mode="exact", processes=2)
    assert [place for place, _ in problems] == [2, 7, 9] and not (tmp_path / "pack/index.npy").exists()
    names = [str(f.relative_to(tmp_path)) for f in files]
    source = sources.Source("x", np.zeros(10, int), 1, paths=names, root=tmp_path, listed_in=Path("train.txt"))
    lines = named(problems, source).splitlines()
    assert len(lines) == 3 and lines[0].startswith("train.txt:3: cannot read image ") and "00002.jpg: " in lines[0]
    pictures(tmp_path / "images")
    assert packs.write(tmp_path / "pack", files, mode="exact") == ([], 0)  # each shard had one and is made again
    assert len(packs.Pack(tmp_path / "pack", "exact")) == 10


def test_a_damaged_shard_is_made_again(tmp_path: Path, small_shards: None) -> None:
    files = pictures(tmp_path / "images")
    packs.write(tmp_path / "pack", files, mode="exact")
    before = digests(tmp_path / "pack")
    shard = tmp_path / "pack/shard-00001.bin"
    content = bytearray(shard.read_bytes())
    content[10] ^= 1
    shard.write_bytes(content)
    assert packs.write(tmp_path / "pack", files, mode="exact") == ([], 2)
    assert digests(tmp_path / "pack") == before


PROJECT = textwrap.dedent("""
    seeds: [0]
    datasets:
      things: {source: imagefolder, family: things, num_classes: 2, image: {size: 16, mean: [0.5], std: [0.5]},
               holdout: {test: 2}, pack: exact}
      things_raw: {extends: things, pack: raw256}
    recipes:
      ce: {paper: baselines, stages: {train: {epochs: 1, batch: 4, lr: 0.1, augment: {name: rrc_flip, size: 16}},
           predict: {augment: {name: eval_large, size: 16}}}, sets: {things: {arch: resnet8, source: x}}}
    tables: {}
""")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    import yaml

    monkeypatch.chdir(tmp_path)
    for name in ("one", "two"):
        pictures(tmp_path / "data/things" / name, 6)
    return Config(yaml.safe_load(PROJECT))


def make_pack(config: Config, dataset: str) -> Path:
    out = Path(f"results/{dataset}/pack/train")
    recipe = Path(f"results/{dataset}/recipe/pack_train.json")
    recipes.write(recipe, recipes.of_pack(config, dataset, "train"))
    pack_stage(recipe, part="train", out=out / "manifest.json")
    return out


def test_a_training_reads_the_pack_and_ends_in_the_same_bits(project: Config) -> None:
    from lt.stages.common import open_split
    from lt.stages.predict import predict
    from lt.stages.split import split
    from lt.stages.train import train

    def run(config: Config, dataset: str) -> tuple[dict, dict]:
        home, run_ = Path("results") / dataset, Run(dataset, "ce", "resnet8", 0)
        recipes.write(home / "recipe/split0.json", recipes.of_split(config, dataset, 0))
        split(home / "recipe/split0.json", out=home / "split0")
        for name in ("train", "predict"):
            recipes.write(home / f"{name}.json", recipes.of_stage(config, run_, name))
        train(home / "train.json", split=home / "split0", out=home / "train")
        predict(home / "predict.json", split=home / "split0", model=home / "train", out=home / "predictions")
        return artefact.read(home / "train").manifest, artefact.read(home / "predictions").manifest

    raw = project.params.datasets
    plain = {"seeds": [0], "recipes": project.params.recipes, "tables": {}}
    unpacked = Config({**plain, "datasets": {"files": {k: v for k, v in raw["things"].items() if k != "pack"}}})
    with read_only(Path("data/things")):
        made = make_pack(project, "things")
        files, packed = run(unpacked, "files"), run(project, "things")
    for one, other in zip(files, packed, strict=True):
        assert one["outputs"] == other["outputs"]  # weights, history, logits: the same bytes
        assert other["inputs"]["pack"] == artefact.read(made).digest and "pack" not in one["inputs"]
        assert other["recipe"]["data"]["pack"] == "exact" and "pack" not in one["recipe"]["data"]
    one, other = (open_split(f"results/{d}/split0")[0].manifest["recipe"] for d in ("files", "things"))
    assert one["data"] == other["data"]  # a split is of the list, however its images are stored
    with pytest.raises(UserError, match="things_raw/pack/train: no finished artefact"):
        run(project, "things_raw")
    (made / "index.npy").write_bytes(b"short")
    with pytest.raises(UserError, match=r"index\.npy: not as it was packed"):
        train("results/things/train.json", split="results/things/split0", out="results/things/again")


def test_other_pixels_are_said_in_the_table(project: Config) -> None:
    rows = {d: recipes.of_row(project, Run(d, "ce", "resnet8", 0), "train", True) for d in ("things", "things_raw")}
    assert rows["things"]["not_comparable"] is None
    assert rows["things_raw"]["not_comparable"] == "other pixels: raw256"
    assert recipes.packs_of(project, "things_raw", "train", "test") == ["results/things_raw/pack/train/manifest.json"]


def test_a_set_in_memory_is_not_packed(project: Config) -> None:
    body = {**project.params.datasets["things"], "source": "digits", "num_classes": 10}
    config = Config({"seeds": [0], "datasets": {"d": body}, "recipes": {}, "tables": {}})
    with pytest.raises(UserError, match="in memory as it is; leave pack out"):
        make_pack(config, "d")


RUN = """
import sys
from pathlib import Path
from lt.data import pack as packs
packs.PER_SHARD = int(sys.argv[3])
files = sorted(Path(sys.argv[1]).iterdir())
print(packs.write(Path(sys.argv[2]), files, mode="exact", processes=2)[1])
"""


def kills(tmp_path: Path, images: int, per_shard: int, source: np.random.Generator, count: int) -> tuple[int, int]:
    """Kill the pack `count` times, each soon after some number of shards was there, then let it finish; how many kills
    met it at work, and how many shards the last run found."""
    folder, killed, met = tmp_path / "images", tmp_path / "killed", 0
    command = [sys.executable, "-c", RUN, str(folder), str(killed), str(per_shard)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    for shards in sorted(source.integers(0, images // per_shard - 3, count)):
        process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
        while process.poll() is None and len(list(killed.glob("*.bin"))) < shards:
            time.sleep(0.001)
        time.sleep(source.uniform(0, 0.02))
        met += process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.wait()
    last = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    subprocess.run([*command[:-2], str(tmp_path / "whole"), str(per_shard)], env=environment, check=True)
    assert digests(killed) == digests(tmp_path / "whole")
    assert len(packs.Pack(killed, "exact")) == images
    return met, int(last.stdout)


@pytest.mark.slow
def test_a_pack_that_is_killed_ends_in_the_same_bytes(tmp_path: Path) -> None:
    """2,000 images, five kills: 10 s."""
    pictures(tmp_path / "images", 50)
    for number in range(50, 2000):
        os.link(tmp_path / "images" / f"{number % 50:05d}.{'png' if number % 5 == 1 else 'jpg'}",
                tmp_path / "images" / f"{number:05d}.{'png' if number % 5 == 1 else 'jpg'}")  # fmt: skip
    met, there = kills(tmp_path, 2000, 100, np.random.default_rng(0), 5)
    assert met >= 3 and there > 0


@pytest.mark.miniature
def test_twenty_thousand_images_killed_at_random(tmp_path: Path) -> None:
    """Each a JPEG of its own; ten kills, drawn anew in every run: a minute."""
    (tmp_path / "images").mkdir()
    for number in range(20_000):
        photo(number).save(tmp_path / "images" / f"{number:05d}.jpg", quality=85, subsampling=number % 3)
    met, there = kills(tmp_path, 20_000, 500, np.random.default_rng(), 10)
    print(f"\n{met} of 10 kills met the pack at work; the last run found {there} of 40 shards")
    assert met >= 6 and there > 0
