"""training.png: the curves of a training and how its samples changed, beside model.pt."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import ignite.distributed as idist
from ignite.engine import Engine, Events
from PIL import Image, ImageDraw

from ..core.output_files import write_then_rename
from ..reports.chart import draw_chart
from ..reports.preview import BACKGROUND, FAINT, GAP, MARGIN, WIDTH, write_text
from .history import History

CHART_HEIGHT = 380  # pixels
STRIPS = 4  # epochs whose samples are shown
TALLEST_STRIP = 900  # pixels


class TrainingPicture:
    """Draws output_dir/training.png after each validation: losses, metrics, samples of a few epochs side by side.

    Args:
        output_dir: the training's folder; samples/epoch_*.png in it are shown.
        history: of this training.
    """

    def __init__(self, output_dir: str | Path, history: History) -> None:
        self.folder = Path(output_dir)
        self.history = history

    def attach(self, engine: Engine, every: int = 1) -> None:
        engine.add_event_handler(Events.EPOCH_COMPLETED(every=every), self)

    def __call__(self, engine: Engine) -> None:
        if idist.get_rank() == 0:
            with write_then_rename(self.folder / "training.png") as aside:
                self.draw(engine.state.epoch).save(aside, format="PNG")

    def draw(self, epoch: int) -> Image.Image:
        """The picture as it is after that epoch."""
        width = (WIDTH - 2 * MARGIN - GAP) // 2
        best = self.history.best
        words = "" if best is None else f"best {best[1]:.4g} after epoch {best[0]}"
        # without the parts of these sums, such as a penalty, which are of other sizes
        losses = {name: points for name, points in self.history.losses.items() if name.startswith("loss")}
        charts = [
            draw_chart((width, CHART_HEIGHT), "losses, mean of each epoch", losses),
            draw_chart((width, CHART_HEIGHT), "validation", self.history.metrics, best, words),
        ]
        strips = self._strips(epoch)
        height = max((strip.height for _, strip in strips), default=0)
        room = height + 34 if strips else 0
        picture = Image.new("RGB", (WIDTH, MARGIN + CHART_HEIGHT + GAP + room + MARGIN), BACKGROUND)
        draw = ImageDraw.Draw(picture)
        for column, chart in enumerate(charts):
            picture.paste(chart, (MARGIN + column * (width + GAP), MARGIN))
        x = MARGIN
        for number, strip in strips:
            y = MARGIN + CHART_HEIGHT + GAP
            write_text(draw, (x, y), f"samples of epoch {number}", 16, FAINT)
            picture.paste(strip, (x, y + 26))
            x += (WIDTH - 2 * MARGIN + GAP) // len(strips)
        return picture

    def _strips(self, epoch: int) -> list[tuple[int, Image.Image]]:
        """(epoch, its samples) of a few epochs, the first and the last among them, reduced to one size."""
        numbers = sorted(int(path.stem[6:]) for path in (self.folder / "samples").glob("epoch_*.png"))
        chosen = spread([n for n in numbers if n <= epoch], STRIPS)
        strips = []
        for number in chosen:
            with Image.open(self.folder / "samples" / f"epoch_{number:04d}.png") as file:
                picture = file.convert("RGB")
            room = (WIDTH - 2 * MARGIN - (len(chosen) - 1) * GAP) / len(chosen)
            scale = min(room / picture.width, TALLEST_STRIP / picture.height, 3.0)
            size = (max(1, int(picture.width * scale)), max(1, int(picture.height * scale)))
            strips.append((number, picture.resize(size, Image.Resampling.LANCZOS)))
        return strips


def spread(items: Sequence[int], count: int) -> list[int]:
    """At most `count` of the items, evenly spaced, the first and the last among them.

    >>> spread([1, 2, 3, 4, 5, 6, 7], 4)
    [1, 3, 5, 7]
    """
    if len(items) <= count:
        return list(items)
    return [items[round(k * (len(items) - 1) / (count - 1))] for k in range(count)]
