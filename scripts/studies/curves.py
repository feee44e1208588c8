"""Curves of a study as a picture; needs the extra [study]. No command of its own: imported by the studies beside it."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure
from study import save_aside

Line = Sequence[tuple[float, float]]


def curves(
    path: pathlib.Path,
    panels: Mapping[str, Mapping[str, Sequence[Line]]],
    x: str,
    y: str,
    log_x: bool = False,
    log_y: bool = False,
) -> pathlib.Path:
    """Panels side by side on one y axis; in each a colour for a name, a thin line for a seed, a thick one for the mean.

    Args:
        panels: title -> name -> the seeds' lines of (x, y), which share their x.
        x, y: what the axes show, with units.
        log_x, log_y: logarithmic axes.
    """
    figure = Figure(figsize=(4.6 * len(panels), 4.2), layout="constrained")
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)
    for axis, (title, names) in zip(axes[0], panels.items()):
        for k, (name, lines) in enumerate(names.items()):
            for line in lines:
                axis.plot(*zip(*line), color=f"C{k}", linewidth=0.8, alpha=0.45)
            means = [(places[0][0], sum(p[1] for p in places) / len(places)) for places in zip(*lines)]
            axis.plot(*zip(*means), color=f"C{k}", linewidth=2, marker="o", markersize=3.5, label=name)
        axis.set(title=title, xlabel=x, xscale="log" if log_x else "linear", yscale="log" if log_y else "linear")
        if log_x:
            places = sorted({place for lines in names.values() for line in lines for place, _ in line})
            ticks = [b for a, b in zip([0, *places], places) if b > 1.2 * a]  # numbers beside each other would overlap
            axis.set_xticks(ticks, [f"{place:g}" for place in ticks], minor=False)
            axis.minorticks_off()
        axis.grid(alpha=0.3)
    axes[0, 0].set_ylabel(y)
    names, across = axes[0, -1].get_legend_handles_labels(), 2 * len(panels)
    figure.legend(*names, fontsize="small", loc="outside lower center", ncols=across, frameon=False)
    return save_aside(path, lambda aside: figure.savefig(aside, dpi=110))
