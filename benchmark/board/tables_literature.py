"""The tables of what papers report: the paper's Table 1, and means by split."""

from ..dataset import FINDINGS
from ..text import escape
from .literature import literature
from .tables import best_in_bold, make_table


def literature_sections() -> list[str]:
    """Sections of Markdown: the paper's Table 1, then means that others report, by split."""
    table = literature()
    whole = table[table[list(FINDINGS)].notna().all(axis=1)]
    rest = table.drop(whole.index)
    by_finding = [[escape(f.replace("_", " ")), *best_in_bold(whole[f].tolist(), 4)] for f in FINDINGS]
    for column, title in (("mean_auc", "Mean"), ("mean_auc_without_hernia", "Mean without Hernia")):
        by_finding.append([title, *best_in_bold(whole[column].tolist(), 4)])
    sections = [
        "## Reported by the papers",
        "Not measured here. ChestX-ray14, as printed in Table 1 of Ma et al. 2019 (official split; means computed from "
        "the rows). These numbers are no yardstick for boards of another dataset, split or recipe.",
        make_table(["Finding", *map(escape, whole["title"])], by_finding, "l" + "r" * len(whole)),
    ]
    for split, group in rest.sort_values("mean_auc", ascending=False).groupby("split"):
        cells = [[escape(row.title), f"{row.mean_auc:.3f}", escape(row.source)] for row in group.itertuples()]
        sections += [
            f"Means reported, {escape(split)}:",
            make_table(["Method", "Mean AUC", "Source"], cells, "lrl"),
        ]
    return sections
