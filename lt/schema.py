"""What may stand in params.yaml: pydantic models, one class per section.

Unknown keys and wrong types are refused; numbers are never read from strings (YAML 1.1 reads `1e-4` as text).
Names of losses, samplers, networks and presets are checked against their registries in `lt.checks`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from lt.errors import UserError

RUN = re.compile(r"(?P<dataset>[a-z0-9_]+)/(?P<method>[a-z0-9_]+)/(?P<arch>[a-z0-9_]+)/seed(?P<seed>\d+)")


@dataclass(frozen=True)
class Run:
    """The identity of a run; its path is its name."""

    dataset: str
    method: str
    arch: str
    seed: int

    def __str__(self) -> str:
        return f"{self.dataset}/{self.method}/{self.arch}/seed{self.seed}"

    @classmethod
    def parse(cls, text: str) -> Run:
        match = RUN.fullmatch(text.strip("/"))
        if not match:
            raise UserError(f"run '{text}': expected <dataset>/<method>/<arch>/seed<k>, as digits/ce/resnet8/seed0")
        return cls(match["dataset"], match["method"], match["arch"], int(match["seed"]))


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Named(BaseModel):
    """An entry of a registry with its options: `{name: ldam, scale: 30.0}`, or just the name."""

    model_config = ConfigDict(extra="allow", strict=True)
    name: str

    def options(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


def _spell_out(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


Choice = Annotated[Named, BeforeValidator(_spell_out)]
Positive = Annotated[int, Field(ge=1)]
NotNegative = Annotated[int, Field(ge=0)]
Number = Annotated[float, Field(allow_inf_nan=False)]
Rate = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Above = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]


class Image(Strict):
    size: Positive
    channels: Literal[1, 3] = 3
    mean: list[Number]
    std: list[Above]


class Imbalance(Strict):
    rule: str
    n_max: Positive | None = None
    imb_factor: Positive | None = None


class Holdout(Strict):
    """Images per class set out before the imbalance is made."""

    test: NotNegative = 0
    val: NotNegative = 0


class Shots(Strict):
    many: int = 100
    few: int = 20


class Dataset(Strict):
    source: str
    family: str
    num_classes: Positive
    image: Image
    imbalance: Imbalance | None = None
    holdout: Holdout = Holdout()
    shots: Shots = Shots()
    class_map: Literal["label", "stable", "legacy"] = "label"
    lists: dict[Literal["train", "val", "test"], str] = {}
    prefix: dict[str, str] = {}
    pack: Literal["exact", "jpeg256", "raw256"] | None = None  # files packed first; all but `exact` are other pixels
    comparable: bool = True
    why_not: str = ""


class StageImage(Strict):
    """What a stage has of its own: the size of its images and of the network's input, and their statistics."""

    size: Positive | None = None
    mean: list[Number] | None = None
    std: list[Above] | None = None


class Redraw(Strict):
    """IP-DPP's draws inside a training stage: at most `k` images a class, before epoch 0 and every so many epochs.

    `p_transform`: p is measured on images as the stage trains on them, or as it is judged. `reseed`: what the
    released sampler does at every draw. `mcmc_steps`: the length of the chain, where it is not the default one.
    """

    sampler: Literal["official", "uniform", "exact", "mcmc", "mcmc_last", "dppy"]
    kernel: Literal["code", "paper", "features"] = "paper"
    k: Positive
    every: NotNegative = 0
    p_transform: Literal["train", "test"] = "test"
    reseed: bool = True
    mcmc_steps: Positive | None = None


class Imported(Strict):
    """A checkpoint from elsewhere that stands in for training; found in data/weights/, known by its digest."""

    file: Annotated[str, Field(pattern=r"^[^/\\]+$")]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    layout: str = "auto"
    drop: list[str] = []


class Device(Strict):
    """How a training stage uses an accelerator; docs/performance.md says what each switch does to the numbers.

    Without one, and where a stage cannot use a switch, it trains the ordinary way and its log says so.
    """

    tf32: bool = False  # fp32 matrix products in TF32; in convolutions it is PyTorch's default
    capture: bool = False  # whole steps as a CUDA graph; a ragged last batch runs eagerly
    read_every: Positive = 1  # steps between two looks at the loss
    resident: bool = True  # images in memory live on the device if they fit
    prefetch: bool = True  # the next batch is copied and augmented on a stream of its own


class MetaBatches(Strict):
    """The class-balanced batches that a sampler learns from: `times` the batch, k images a class visit."""

    times: Positive = 1
    k: Positive = 4


class Train(Strict):
    """One training stage. `batch` is global; the learning rate belongs to it."""

    verb: Literal["train"] = "train"
    imported: Imported | None = None
    task: str = "classify"
    task_options: dict[str, Any] = {}
    net: str | None = None
    options: dict[str, Any] = {}
    load: Literal["all", "backbone", "frozen", "mgp", "none"] = "all"
    image: StageImage = StageImage()
    head: Choice | None = None
    trainable: Literal["all", "head", "block+head"] = "all"
    bn: Literal["train", "eval"] = "train"
    bn_group: Annotated[int, Field(ge=2)] | None = None
    sync_bn: bool = False  # batch normalisation over the images of all ranks
    batchformer: dict[str, Any] | None = None
    pretrained: str | None = None  # torchvision's V1 ImageNet weights of that network, from data/weights/
    epochs: Positive
    batch: Positive
    steps: Literal["ceil", "floor", "ceil+1"] | Positive = "ceil"
    accumulate: Positive = 1
    optimizer: Choice = Named(name="sgd", momentum=0.9)
    lr: Rate
    weight_decay: Rate = 0.0
    groups: Choice = Named(name="all")
    schedule: Choice = Named(name="cosine")
    loss: Choice = Named(name="cross_entropy")
    mix: Choice | None = None
    sampler: Choice | None = None
    augment: Choice = Named(name="none")
    eval_augment: Choice = Named(name="none")
    clip: Above | None = None
    ema: Share | None = None
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    channels_last: bool = True
    compile: bool = False
    device: Device = Device()
    pixels: Literal["pillow", "fast"] = "pillow"  # fast: resize within 1/255 of Pillow's, jitter on the device
    eval_every: NotNegative = 0
    snapshots_every: NotNegative = 0
    workers: NotNegative = 0
    redraw: Redraw | None = None
    meta: MetaBatches | None = None


class Subset(Strict):
    """An index list drawn from a split: balanced by class, or determinantal from what the stage `of` predicts."""

    verb: Literal["subset"] = "subset"
    rule: Choice
    of: str | None = None


class Merge(Strict):
    """N = `count` branches become one network."""

    verb: Literal["merge"] = "merge"
    imported: Imported | None = None
    count: Positive = 10
    rule: Choice = Named(name="mean")
    reestimate_bn: NotNegative = 0


class Predict(Strict):
    verb: Literal["predict"] = "predict"
    image: StageImage = StageImage()  # what differs from the images that the stage was trained on
    batch: Positive = 256
    outputs: list[Literal["features", "experts", "weights"]] = []
    augment: Choice = Named(name="none")
    pixels: Literal["pillow", "fast"] = "pillow"
    precision: Literal["fp32", "bf16"] = "fp32"


class Evaluate(Strict):
    """`groups`: a second cut into many, medium and few, as the paper's code has it (lt/data/shots.py).

    `form`: the metrics once more, as that paper's evaluation code rounds and averages (lt/metrics.py).
    """

    verb: Literal["evaluate"] = "evaluate"
    posthoc: Choice | None = None
    tuning: Literal["val", "train"] | None = None
    groups: str = "count"
    form: Literal["plain", "mislas", "btm", "bagmar", "ipdpp", "ride", "livt"] = "plain"
    zero: Literal["floor", "zero"] = "floor"
    bins: Positive = 15
    selected_on: Literal["last", "val", "test"] = "last"


class Choose(Predict):
    """One of the snapshots that a training stage left (`snapshots_every`), by its top-1 on a part of the data."""

    verb: Literal["choose"] = "choose"
    part: Literal["val", "test"]
    posthoc: Choice | None = None


STAGES: dict[str, type[Strict]] = {
    "train": Train,
    "subset": Subset,
    "merge": Merge,
    "choose": Choose,
    "predict": Predict,
    "evaluate": Evaluate,
}


def _flat(value: Any) -> Any:
    """Lists in a list are one list: a table names its methods a line a paper."""
    if not isinstance(value, list):
        return value
    return [name for entry in value for name in (entry if isinstance(entry, list) else [entry])]


def _each_a_list(value: Any) -> Any:
    return {k: [v] if isinstance(v, str) else v for k, v in value.items()} if isinstance(value, dict) else value


class Where(Strict):
    """In the cells that have all these parts, this layer comes on top; with `why` they are no cells."""

    when: Annotated[dict[str, list[str]], BeforeValidator(_each_a_list)] = Field(min_length=1)
    then: dict[str, Any] = {}
    why: str = ""


class Crossing(Strict):
    """One recipe for each combination of a part from every axis; `lt.crossing` expands them."""

    recipe: dict[str, Any]
    parts: dict[str, dict[str, dict[str, Any] | None]]
    where: list[Where] = []


class Table(Strict):
    datasets: list[str]
    methods: Annotated[list[str], BeforeValidator(_flat)]
    seeds: list[NotNegative] | None = None
    archs: dict[str, list[str]] = {}
    caption: str = ""
    comparisons: list[Annotated[list[str], Field(min_length=2, max_length=2)]] = []  # first minus second
    figures: dict[str, list[str]] = {}  # figure: the methods in it, all of them (eight at most) if none is named


class Figure(Strict):
    """A figure of a table, and the folder of metrics that it waits for."""

    table: str
    figure: str
    metrics: str


class Grid(Strict):
    """What `dvc repro` keeps up to date: the product of these lists, with the methods of each graph.

    `tables`: each table and the folder of metrics that it waits for.
    """

    model_config = ConfigDict(extra="allow", strict=True)
    datasets: list[str]
    archs: list[str]
    seeds: list[NotNegative]
    packs: list[str] = []
    pack_parts: list[Literal["train", "val", "test"]] = ["train", "test"]
    tables: dict[str, str]
    figures: dict[str, Figure] = {}


class Params(Strict):
    """The sections of params.yaml. `recipes` and `overlays` are layers; `lt.config` merges and checks them."""

    seeds: list[NotNegative]
    datasets: dict[str, dict[str, Any]]
    recipes: dict[str, dict[str, Any]]
    crossings: dict[str, Crossing] = {}
    tables: dict[str, Table]
    overlays: dict[str, dict[str, Any]] = {}
    grid: Grid | None = None
