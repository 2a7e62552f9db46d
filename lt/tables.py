"""Runs against published numbers, one row a seed and one `mean` row a method; csv, md and tex.

A published number is compared only with a run made under like conditions; otherwise the verdict says why not.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lt import artefact, stats
from lt import published as ledger
from lt.errors import UserError, nearest, pick
from lt.metrics import GROUPS
from lt.metrics import NAMES as METRICS

if TYPE_CHECKING:
    import pandas as pd

Row = Mapping[str, Any]

IDENTITY = ("set", "imb_factor", "method", "arch", "resolution", "epochs", "tau", "experts", "gmacs", "gmacs_published")
COST = ("wall_s", "job_s", "peak_mb")  # within the stages; of whole jobs, by benchmark files; the highest
BOOTSTRAP = ("top1_images_ci95", "top1_classes_ci95", "hm_images_ci95", "hm_classes_ci95")  # half widths of one run
PUBLISHED = ("published", "source", "difference", "verdict")
ROW_KEYS = ("dataset", *IDENTITY[1:], "seed", "metrics", *COST, "holdout", "selected_on")
ROW_KEYS += BOOTSTRAP
ROW_KEYS += (
    "undertrained",
    "missing",
    "senseless",
    "not_comparable",
    "published_as",
    "external_data",
    "paper",
    "title",
)
ON_TEST = "chosen on the test set"  # in a verdict: such a number is shown and competes with none
EFFORT = ("experts", "gmacs", "gmacs_published")  # of a routed network they differ from seed to seed
COUNTED = ("zero_classes", "absent_classes", "tested")
DECIMALS = {"pdc": 3, "tau": 3, "wall_s": 1, "job_s": 1, "peak_mb": 1, "p": 4, "p_holm": 4}
SELECTED = {"last": "last", "test": "best_on_test", "best_on_test": "best_on_test"}
SELECTED |= {"val": "best_on_val", "best_on_val": "best_on_val"}
PUBLISHED_AS = {"resnet152_places": "resnet152"}  # the same network, its last bottleneck kept apart
TOLERANCE = 1.0  # points; two standard errors where they are more


def tabulate(
    rows: Iterable[Row],
    published: ledger.Ledger | Iterable[ledger.Entry],
    table: str,
    *,
    metric: str = "top1",
) -> pd.DataFrame:
    """The whole table, unformatted; `published`, `difference` and `verdict` speak of `metric`.

    A row has the keys of ROW_KEYS: its identity and cost, `metrics`, what bears on comparing it (`holdout`,
    `selected_on`, `undertrained`, `not_comparable`: why) and `missing`, the command that makes the run. A row with
    `senseless` is no run: it says why there is none. `published_as`: the method whose published numbers are meant.
    `paper` and `title`: what groups a method's rows with others, and its name for readers.
    """
    import pandas as pd

    entries = published.results if isinstance(published, ledger.Ledger) else list(published)
    rows = [_checked(row, index) for index, row in enumerate(rows)]
    names = _metric_names(rows)
    out: list[dict[str, Any]] = []
    for group in _groups(rows):
        if group[0].get("senseless"):
            out += [_senseless_row(row) for row in group]
            continue
        for row in group:
            out.append(_seed_row(row, entries, metric))
        out.append(_mean_row(group, entries, names, metric))
    columns = [*IDENTITY, "seed", "seeds", "selected_on", *names]
    columns += [f"{name}_se" for name in names] + [f"{name}_ci95" for name in names] + [*BOOTSTRAP, *COST, *PUBLISHED]
    frame = pd.DataFrame(out, columns=columns, dtype=object)
    frame = frame.where(frame.notna(), None)
    frame.attrs = {"table": table, "metric": metric, "metrics": names}
    frame.attrs |= {key: {row["method"]: row[key] for row in rows if row.get(key)} for key in ("paper", "title")}
    return frame


def _checked(row: Row, index: int) -> Row:
    for key in row:
        if key not in ROW_KEYS:
            raise UserError(f"tables: row {index}: unknown key '{key}'{nearest(key, ROW_KEYS)}")
    for key in ("dataset", "method", "arch", "seed")[: 3 if row.get("senseless") else 4]:
        if row.get(key) is None:
            raise UserError(f"tables: row {index}: '{key}' is missing")
    if not row.get("senseless") and not row.get("missing") and not row.get("metrics"):
        raise UserError(f"tables: row {index}: expected metrics, or the command that makes a missing run")
    return row


def _metric_names(rows: list[Row]) -> list[str]:
    seen = dict.fromkeys(name for row in rows for name in row.get("metrics") or {})
    known = [name for name in METRICS if name in seen] or list(METRICS)
    return known + [n for n in seen if n not in METRICS and n not in ("tested", "absent_classes")]


def selection(row: Row) -> str:
    """last, best_on_test or best_on_val."""
    return str(pick("selected_on", row.get("selected_on") or "last", SELECTED))


def _groups(rows: list[Row]) -> list[list[Row]]:
    """Runs of one method in order of first appearance, seeds ascending; data sets stay together."""
    present: dict[tuple, list[Row]] = {}
    order = {name: i for i, name in enumerate(dict.fromkeys(row["dataset"] for row in rows))}
    for row in rows:
        present.setdefault((row["dataset"], row["method"], row["arch"], selection(row)), []).append(row)
    for key, group in list(present.items()):  # a missing run may not know how its epoch will be chosen
        if all(r.get("missing") and r.get("selected_on") is None for r in group):
            others = [k for k in present if k[:3] == key[:3] and k != key]
            if others:
                present[others[0]] += present.pop(key)
    groups = []
    for key, group in sorted(present.items(), key=lambda item: order[item[0][0]]):
        if group[0].get("senseless"):
            groups.append(group)
            continue
        seeds = [row["seed"] for row in group]
        if len(set(seeds)) < len(seeds):
            raise UserError(f"tables: {'/'.join(key[:3])}: seed {_repeated(seeds)} is listed twice")
        groups.append(sorted(group, key=lambda row: row["seed"]))
    return groups


def _repeated(seeds: list[int]) -> int:
    return next(s for s in seeds if seeds.count(s) > 1)


def _seed_row(row: Row, entries: list[ledger.Entry], metric: str) -> dict[str, Any]:
    values = {name: _finite(value) for name, value in (row.get("metrics") or {}).items()}
    out = {key: row.get(key) for key in (*IDENTITY[1:], *COST, *BOOTSTRAP)}
    out |= {"set": row["dataset"], "seed": row["seed"], "seeds": None, "selected_on": selection(row)}
    if row.get("missing"):
        number, source, _, _ = judge(row, None, math.nan, entries, metric)
        return out | {"published": number, "source": source, "verdict": f"missing: {row['missing']}"}
    verdict = judge(row, values.get(metric), math.nan, entries, metric)
    return out | values | dict(zip(PUBLISHED, verdict, strict=True))


def _senseless_row(row: Row) -> dict[str, Any]:
    own = {"set": row["dataset"], "method": row["method"], "arch": row["arch"], "seed": "mean", "seeds": 0}
    return own | {"verdict": f"no such run: {row['senseless']}"}


def _mean_row(group: list[Row], entries: list[ledger.Entry], names: list[str], metric: str) -> dict[str, Any]:
    there = [row for row in group if not row.get("missing")]
    shared = there or group
    out: dict[str, Any] = {key: _common(shared, key) for key in IDENTITY[1:]}
    out |= {"set": group[0]["dataset"], "seed": "mean", "seeds": len(there)}
    out["selected_on"] = selection(shared[0])
    if not there:
        number, source, _, _ = judge(group[0], None, math.nan, entries, metric)
        return out | {"published": number, "source": source, "verdict": f"missing: 0 of {len(group)} seeds"}
    head = math.nan, math.nan
    for name in names:
        values = [_finite((row.get("metrics") or {}).get(name)) for row in there]
        s = stats.summary(v for v in values if v is not None)
        if s.n == len(there):  # a mean over some of the seeds would not be comparable
            out[name], out[f"{name}_se"], out[f"{name}_ci95"] = s.mean, _finite(s.se), _finite((s.high - s.low) / 2)
            head = (s.mean, s.se) if name == metric else head
    walls, jobs, peaks = ([row[k] for row in there if row.get(k) is not None] for k in COST)
    out["wall_s"] = sum(walls) / len(walls) if walls else None
    out["job_s"] = sum(jobs) / len(jobs) if len(jobs) == len(there) else None
    out["peak_mb"] = max(peaks) if peaks else None
    for key in (*EFFORT, *BOOTSTRAP):
        values = [row[key] for row in there if row.get(key) is not None]
        out[key] = sum(values) / len(values) if len(values) == len(there) else None
    worst = next((row for row in there if row.get("undertrained")), there[0])
    verdict = judge(dict(worst, tau=out["tau"]), _finite(head[0]), head[1], entries, metric)
    out |= dict(zip(PUBLISHED, verdict, strict=True))
    if len(there) < len(group):
        out["verdict"] += f" ({len(there)} of {len(group)} seeds)"
    return out


def _common(rows: list[Row], key: str) -> Any:
    values = {row.get(key) for row in rows}
    return values.pop() if len(values) == 1 else None


def _finite(value: Any) -> float | None:
    return None if value is None or not math.isfinite(value) else value


def judge(
    row: Row, value: float | None, se: float, entries: list[ledger.Entry], metric: str
) -> tuple[float | None, str | None, float | None, str]:
    """(published, source, difference, verdict) for one value of one run."""
    holdout = row.get("holdout") or row["dataset"].endswith("_holdout")
    dataset, method = row["dataset"].removesuffix("_holdout"), row.get("published_as") or row["method"]
    found = ledger.find(entries, dataset=dataset, method=method, metric=metric, imb_factor=row.get("imb_factor"))
    if not found:
        why = "undertrained" if row.get("undertrained") else row.get("not_comparable")
        return None, None, None, f"not published ({why})" if why else "not published"
    own = "holdout" if holdout else "undertrained" if row.get("undertrained") else row.get("not_comparable")
    reasons = [(entry, own or why_not(entry, row)) for entry in found]
    fits = [pair for pair in reasons if not pair[1]]
    entry, reason = min(fits, key=lambda pair: pair[0].epochs is None, default=reasons[0])
    if not reason and value is None:
        reason = f"no {metric}"
    if reason:
        return entry.value, entry.source, None, f"not comparable: {reason}"
    difference = round(value - entry.value, 9)
    tolerance = TOLERANCE if math.isnan(se) else max(TOLERANCE, 2 * se)
    word = "within" if abs(difference) <= tolerance else "above" if difference > 0 else "below"
    return entry.value, entry.source, difference, word


def why_not(entry: ledger.Entry, row: Row) -> str | None:
    """Why that published number and this run were not made under like conditions; None if they were."""
    if entry.shots and entry.metric in GROUPS:  # a row's own are cut by class counts
        return f"groups as {entry.shots} cuts them"
    if entry.arch == "unknown":
        return "published architecture not stated"
    if entry.arch != PUBLISHED_AS.get(row["arch"], row["arch"]):
        return f"{row['arch']}, published {entry.arch}"
    for key, unit in (("resolution", " px"), ("epochs", " epochs"), ("tau", "")):
        ours, theirs = row.get(key), getattr(entry, key)
        if ours is not None and theirs is not None and not math.isclose(ours, theirs, rel_tol=1e-9):
            name = "tau " if key == "tau" else ""
            return f"{name}{ours:g}{unit}, published {theirs:g}{unit}"
    if entry.split not in ("unknown", "test"):  # rows are of the test set
        return f"published on the {entry.split} split"
    ours = selection(row)
    if entry.selection == "unknown" and ours == "best_on_test":
        return "epoch chosen on the test set"
    if entry.selection not in ("unknown", ours):
        return f"epoch {ours}, published {entry.selection}".replace("_", " ")
    if row.get("external_data") != entry.external_data:
        return f"external data: {row.get('external_data') or 'none'}, published {entry.external_data or 'none'}"
    return None


def cell(name: str, value: Any) -> str:
    """How a value of that column is written: percentages with two decimals, blank where there is none."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return ""
    if isinstance(value, str):
        return value
    base = name.removesuffix("_ci95").removesuffix("_se")
    if base in COUNTED and base == name and float(value).is_integer():
        return str(int(value))
    if base in ("imb_factor", "resolution", "epochs", "experts", "seed", "seeds"):
        return f"{value:g}"
    if base in ("gmacs", "gmacs_published"):  # from 8x8 digits to 224 pixels
        return f"{value:.4g}"
    text = f"{value:.{DECIMALS.get(base, 2)}f}"
    if base == "tau":
        text = text.rstrip("0").rstrip(".")
    return text[1:] if text.startswith("-") and not text.strip("-0.") else text  # no "-0.00"


def to_csv(frame: pd.DataFrame) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(frame.columns)
    for row in frame.itertuples(index=False, name=None):
        writer.writerow([cell(name, value) for name, value in zip(frame.columns, row, strict=True)])
    return out.getvalue()


def read(path: Path, column: str) -> list[dict[str, str]]:
    """The rows of a table as it was written; `column` is one that the reader needs."""
    rows = artefact.read_csv(path, again(path, path), columns=("set", "method", "arch", "seed"))
    if column not in rows[0]:
        raise UserError(f"{path}: no column '{column}'{nearest(column, rows[0])}")
    return rows


def recipe_of(table: Path) -> Path:
    """Where the recipe of a table lies."""
    return table.parent.parent / "recipes" / f"{table.stem}.json"


def again(table: Path, wanted: Path) -> str:
    """The command that makes this file of a table, where there is a rule for it; ends a message."""
    rule = table.parent == Path("results/tables") and table.suffix == ".csv"
    return f"; make it: snakemake --cores all {wanted}" if rule else "; expected results/tables/<table>.csv"


def write(frame: pd.DataFrame, path: str | Path) -> None:
    """Write by suffix: .csv, .md, .tex or .html."""
    from lt import tables_text

    path = Path(path)
    writers = {".csv": to_csv, ".md": tables_text.to_md, ".tex": tables_text.to_tex}
    writers[".html"] = tables_text.to_html
    text = pick("table format", path.suffix, writers)(frame)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode("utf-8"))
