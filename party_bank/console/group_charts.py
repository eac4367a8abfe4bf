"""Charts of named groups side by side, for the pages of policies and of the policy assistant."""

from __future__ import annotations

from collections.abc import Sequence

from veilscore.reports.svg import Chart

_HEADROOM = 1.3  # for the legend


def group_chart(title: str, unit: str, names: Sequence[str]) -> Chart:
    """Return a chart whose x axis has these names, and whose y axis begins at zero."""
    chart = Chart(title, "", unit)
    chart.named_x(names)
    chart.y_limits = (0, None)
    return chart


def part_chart(
    title: str, unit: str, groups: Sequence[tuple[str, int, int]], labels: tuple[str, str], colour: str
) -> Chart | None:
    """Draw how many each group has, and in front of them, in this colour, how many are part of it; None without groups.

    groups : name, whole, part; labels : of the whole and of the part.
    """
    if not groups:
        return None
    chart = group_chart(title, unit, [name for name, _, _ in groups])
    x = [float(n) for n in range(len(groups))]
    chart.bars(x, [float(whole) for _, whole, _ in groups], 0.6, "good", labels[0])
    chart.bars(x, [float(part) for _, _, part in groups], 0.6, colour, labels[1])
    chart.y_limits, chart.legend = (0, _HEADROOM * max(whole for _, whole, _ in groups)), "upper right"
    chart.y_format = lambda value, _: f"{value:,.0f}"
    return chart
