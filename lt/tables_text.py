"""A table for readers: Markdown and LaTeX (booktabs), from the frame that `lt.tables.tabulate` makes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lt.tables import COST, ON_TEST, cell

if TYPE_CHECKING:
    import pandas as pd

LOWER_IS_BETTER = frozenset({"ece", "mce", "pdc", "zero_classes"})
HEADS = {
    "top1": "Top-1", "top5": "Top-5", "mean": "Mean", "f1": "F1", "many": "Many", "medium": "Medium",
    "few": "Few", "hm": "HM", "gm": "GM", "zero_classes": "Zero classes", "worst": "Worst", "ece": "ECE",
    "mce": "MCE", "pdc": "PDC", "test_bonus": "Test bonus",
}  # fmt: skip
PAPER = ("top1", "many", "medium", "few", "hm", "gm", "zero_classes", "ece")
HTML_STYLE = (
    "body{font:14px sans-serif;margin:1em;color:#111;background:#fff}table{border-collapse:collapse;"
    "border-top:2px solid;border-bottom:2px solid}thead tr{border-bottom:1px solid}tbody th{text-align:left;"
    "font-style:italic;font-weight:normal;border-top:1px solid #999}td,thead th{padding:2px 8px;text-align:right;"
    "white-space:nowrap}td:nth-child(-n+2),th:nth-child(-n+2),td:last-child,th:last-child{text-align:left;white-space:normal}small{color:#555}"
)
_TEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{",
    "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}",
    ">": r"\textgreater{}", "|": r"\textbar{}", '"': "''", "–": "--", "±": r"\ensuremath{\pm}",
}  # fmt: skip


def escape_tex(text: Any) -> str:
    return "".join(_TEX.get(c, c) for c in " ".join(str(text).split()))


def escape_md(text: Any) -> str:
    return " ".join(str(text).split()).replace("\\", "\\\\").replace("|", "\\|")


def _records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    return frame.to_dict("records")


def _sets(records: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    groups: dict[str, list[dict[str, Any]]] = {}
    for record in records:
        groups.setdefault(record["set"], []).append(record)
    return groups


def _filled(records: list[dict[str, Any]], names: list[str]) -> list[str]:
    return [name for name in names if any(r.get(name) is not None for r in records)]


def best(records: list[dict[str, Any]], name: str) -> str | None:
    """The best value of a column as it is written (equal texts are all marked); None if all are equal.

    What was chosen on the test set does not compete.
    """
    values = [r[name] for r in records if r.get(name) is not None and not on_test(r)]
    if len({cell(name, value) for value in values}) < 2:
        return None
    return cell(name, min(values) if name in LOWER_IS_BETTER else max(values))


def on_test(record: dict[str, Any]) -> bool:
    return record["selected_on"] == "best_on_test" or ON_TEST in (record["verdict"] or "")


def bold(record: dict[str, Any], name: str, top: str | None) -> bool:
    """Whether a value is its column's best."""
    return cell(name, record[name]) == top and not on_test(record)


def _title(name: str, records: list[dict[str, Any]]) -> str:
    factors = {r["imb_factor"] for r in records} - {None}
    return f"{name}, imbalance factor {factors.pop():g}" if len(factors) == 1 else name


def _md_rows(heads: list[str], rows: list[list[str]], left: int) -> list[str]:
    """Columns padded to one width: readable as plain text, too."""
    width = [max(3, *(len(row[i]) for row in [heads, *rows])) for i in range(len(heads))]

    def line(row: list[str]) -> str:
        return (
            "| "
            + " | ".join(
                t.ljust(w) if i < left else t.rjust(w) for i, (t, w) in enumerate(zip(row, width, strict=True))
            )
            + " |"
        )

    rule = "|".join(":" + "-" * (w + 1) if i < left else "-" * (w + 1) + ":" for i, w in enumerate(width))
    return [line(heads), f"|{rule}|", *map(line, rows)]


def to_md(frame: pd.DataFrame) -> str:
    """Means with their 95 % interval first, then every seed; sources as numbered notes."""
    records, metric = _records(frame), frame.attrs["metric"]
    notes = list(dict.fromkeys(r["source"] for r in records if r["source"]))
    out = [f"# {escape_md(frame.attrs['table'])}", ""]
    out += [
        "Mean over seeds ± half the 95 % t interval; best in bold. Accuracies in percent. "
        f"Published, difference and verdict speak of {HEADS.get(metric, metric)}.",
        "",
    ]
    for name, group in _sets(records).items():
        means = [r for r in group if r["seed"] == "mean"]
        out += [
            f"## {escape_md(_title(name, group))}",
            "",
            *_md_means(means, frame.attrs["metrics"], notes),
            "",
        ]
    out += ["## Every seed", "", *_md_seeds(records, frame.attrs["metrics"]), ""]
    if notes:
        out += ["## Sources", "", *[f"{i}. {escape_md(note)}" for i, note in enumerate(notes, 1)], ""]
    return "\n".join(out)


def _md_means(means: list[dict[str, Any]], names: list[str], notes: list[str]) -> list[str]:
    extra = _filled(means, ["resolution", "epochs", "tau", "experts", "gmacs", "gmacs_published"])
    names = _filled(means, names)
    cost = _filled(means, [*COST])
    heads = ["method", "arch", *extra, "seeds", *[HEADS.get(n, n) for n in names], *cost]
    heads += ["published", "difference", "verdict"]
    top = {name: best(means, name) for name in names}
    rows = []
    for r in means:
        row = [
            escape_md(r["method"]),
            escape_md(r["arch"]),
            *[cell(n, r[n]) for n in extra],
            cell("seeds", r["seeds"]),
        ]
        for name in names:
            text = cell(name, r[name])
            spread = cell(f"{name}_ci95", r[f"{name}_ci95"])
            text = f"**{text}**" if text and bold(r, name, top[name]) else text
            row.append(f"{text} ± {spread}" if spread else text)
        shown = cell("published", r["published"])
        row += [cell(n, r[n]) for n in cost]
        row += [f"{shown} [{notes.index(r['source']) + 1}]" if r["source"] else shown]
        row += [_signed(r["difference"]), escape_md(r["verdict"] or "")]
        rows.append(row)
    return _md_rows(heads, rows, 2)


def _md_seeds(records: list[dict[str, Any]], names: list[str]) -> list[str]:
    seeds = [r for r in records if r["seed"] != "mean"]
    names = _filled(seeds, [*names, *COST])
    rows = [
        [
            *[escape_md(r[k]) for k in ("set", "method", "arch", "seed")],
            *[cell(n, r[n]) for n in names],
            escape_md(r["verdict"] or ""),
        ]
        for r in seeds
    ]
    return _md_rows(["set", "method", "arch", "seed", *[HEADS.get(n, n) for n in names], "verdict"], rows, 3)


def comparisons_md(frame: pd.DataFrame) -> str:
    """Planned comparisons: differences paired over seeds; p only from five seeds on."""
    heads = ["set", "arch", "a", "b", "seeds", "a - b", "95 % interval", "p", "p (Holm)"]
    rows = []
    for r in _records(frame):
        within = f"{_signed(r['low'])} to {_signed(r['high'])}" if r["low"] is not None else ""
        rows.append([*[escape_md(r[k]) for k in ("set", "arch", "a", "b")], cell("seeds", r["seeds"]),
                     _signed(r["difference"]), within, cell("p", r["p"]), cell("p_holm", r["p_holm"])])  # fmt: skip
    note = "Top-1, paired over seeds, Holm-corrected over this list; below five seeds an interval and no p-value."
    return "\n".join(["", "## Planned comparisons", "", note, "", *_md_rows(heads, rows, 4), ""])


def _signed(value: float | None) -> str:
    text = cell("difference", value)
    return f"+{text}" if text and not text.startswith("-") and text.strip("0.") else text


def to_html(frame: pd.DataFrame) -> str:
    """A page that holds the means alone, for the report: it loads nothing."""
    from html import escape

    means = [r for r in _records(frame) if r["seed"] == "mean"]
    names = _filled(means, [n for n in PAPER if n in frame.attrs["metrics"]])
    heads = ["Method", "Network", "Seeds", *[HEADS[n] for n in names], "Published", "Verdict"]
    rows = []
    for name, group in _sets(means).items():
        rows.append(f'<tr><th colspan="{len(heads)}">{escape(_title(name, group))}</th></tr>')
        top = {n: best(group, n) for n in names}
        for r in group:
            cells = [escape(str(r["method"])), escape(str(r["arch"])), cell("seeds", r["seeds"])]
            for n in names:
                text, spread = cell(n, r[n]), cell(f"{n}_ci95", r[f"{n}_ci95"])
                text = f"<b>{text}</b>" if text and bold(r, n, top[n]) else text
                cells.append(f"{text} <small>± {spread}</small>" if spread else text)
            cells += [cell("published", r["published"]), escape(r["verdict"] or "")]
            rows.append("<tr>" + "".join(f"<td>{c}</td>" for c in cells) + "</tr>")
    title, head = escape(frame.attrs["table"]), "".join(f"<th>{h}</th>" for h in heads)
    note = "Mean over seeds, half the 95 % t interval; best in bold. Accuracies in percent."
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title><style>{HTML_STYLE}</style>'
        f"<h1>{title}</h1><p>{note}</p><table><thead><tr>{head}</tr></thead>\n<tbody>" + "\n".join(rows)
        + "</tbody></table></html>\n"
    )  # fmt: skip


LONG = 36  # rows that fit a page; a longer table goes on over pages
MARKS = {"*": "the epoch, or tau, was chosen on the test set: shown, not compared", "\\dag": "undertrained"}


def to_tex(frame: pd.DataFrame) -> str:
    """A booktabs table of the means: papers apart, best in bold, half the 95 % interval as spread."""
    means = [r for r in _records(frame) if r["seed"] == "mean"]
    names = _filled(means, [n for n in PAPER if n in frame.attrs["metrics"]])
    public = any(r["published"] is not None for r in means)
    heads = ["Method", "Architecture", "Seeds", *[HEADS[n] for n in names]] + (["Published"] if public else [])
    head = "    " + " & ".join(map(escape_tex, heads)) + " \\\\"
    rows, used = [], set()
    for name, group in _sets(means).items():
        block = f"\\multicolumn{{{len(heads)}}}{{@{{}}l}}{{\\emph{{{escape_tex(_title(name, group))}}}}}"
        rows += ["    \\midrule", f"    {block} \\\\"]
        top, papers = {n: best(group, n) for n in names}, frame.attrs["paper"]
        for before, r in zip([None, *group], group, strict=False):
            if before and papers.get(before["method"]) != papers.get(r["method"]):
                rows.append("    \\addlinespace")
            mark = _mark(r)
            used |= {mark} - {""}
            title = frame.attrs["title"].get(r["method"], r["method"])
            rows.append("    " + " & ".join(_tex_row(r, title, mark, names, top, public)) + " \\\\")
    return _tex_table(frame, head, rows, len(heads), _tex_caption(frame, public, used))


def _tex_caption(frame: pd.DataFrame, public: bool, used: set[str]) -> str:
    caption = f"{frame.attrs['table']}: mean over seeds, spread = half the 95 % t interval, best in bold."
    if public:
        metric = HEADS.get(frame.attrs["metric"], frame.attrs["metric"])
        caption += f" Published: {metric}; in parentheses where the conditions differ."
    notes = [f" $^{{{mark}}}${escape_tex(text)}." for mark, text in MARKS.items() if mark in used]
    return escape_tex(caption) + "".join(notes)


def _tex_table(frame: pd.DataFrame, head: str, rows: list[str], width: int, caption: str) -> str:
    columns, body = "@{}ll" + "r" * (width - 2) + "@{}", "\n".join(rows)
    label = "tab:" + "".join(c if c.isalnum() else "-" for c in frame.attrs["table"])
    if len(rows) <= LONG:
        return f"""% needs \\usepackage{{booktabs}}
\\begin{{table}}[t]
  \\centering
  \\small
  \\setlength{{\\tabcolsep}}{{4pt}}
  \\begin{{tabular}}{{{columns}}}
    \\toprule
{head}
{body}
    \\bottomrule
  \\end{{tabular}}
  \\caption{{{caption}}}
  \\label{{{label}}}
\\end{{table}}
"""
    return f"""% needs \\usepackage{{booktabs,longtable}}
\\begingroup
  \\footnotesize
  \\setlength{{\\tabcolsep}}{{3pt}}
  \\begin{{longtable}}{{{columns}}}
    \\caption{{{caption}}} \\label{{{label}}} \\\\
    \\toprule
{head}
    \\endfirsthead
    \\toprule
{head}
    \\midrule
    \\endhead
    \\bottomrule
    \\endlastfoot
{body}
  \\end{{longtable}}
\\endgroup
"""


def _mark(r: dict[str, Any]) -> str:
    return "*" if on_test(r) else "\\dag" if "undertrained" in (r["verdict"] or "") else ""


def _tex_row(
    r: dict[str, Any], title: str, mark: str, names: list[str], top: dict[str, str | None], public: bool
) -> list[str]:
    row = [escape_tex(title) + (f"$^{{{mark}}}$" if mark else ""), escape_tex(r["arch"])]
    if not r["seeds"] and r["verdict"]:  # a cell that is no run, or a run that is missing: why
        return [*row, f"\\multicolumn{{{1 + len(names) + public}}}{{l@{{}}}}{{{escape_tex(r['verdict'])}}}"]
    row.append(cell("seeds", r["seeds"]))
    for name in names:
        text = cell(name, r[name])
        spread = cell(f"{name}_ci95", r[f"{name}_ci95"])
        text = f"\\textbf{{{text}}}" if text and bold(r, name, top[name]) else text or "--"
        row.append(text + (f"{{\\scriptsize\\,$\\pm$\\,{spread}}}" if spread else ""))
    if public:
        text = cell("published", r["published"]) or "--"
        unlike = text != "--" and not (r["verdict"] or "").startswith(("within", "above", "below"))
        row.append(f"({text})" if unlike else text)
    return row


def tex_document(fragment: str) -> str:
    """A page that holds nothing but the table, to compile it alone."""
    head = "\\documentclass{article}\n\\usepackage[landscape,margin=1cm]{geometry}\n"
    return head + "\\usepackage{booktabs,longtable}\n\\begin{document}\n" + fragment + "\\end{document}\n"
