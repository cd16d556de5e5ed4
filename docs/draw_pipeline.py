"""Draw the stages of a run as an SVG.

python docs/draw_pipeline.py runs/…/run.json docs/pipeline.svg
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

WIDTH, HEIGHT, LEFT, GROUND = 1000, 240, 84, 190
COLOURS = {"teach": "#7c6bb0", "distill": "#3b7dbf", "prune": "#c96a4a", "finetune": "#3f9a78"}


def draw(stages: list[dict]) -> str:
    """Return an SVG with a bar for each stage.

    A bar's height is the logarithm of the stage's parameters; its validation accuracy is below it.
    """
    most = max(stage["params"] for stage in stages)
    least = min(stage["params"] for stage in stages)
    step = (WIDTH - LEFT - 10) / len(stages)
    wide = step * 0.74
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        'font-family="Helvetica,Arial,sans-serif" font-size="13">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
        f'<text x="8" y="{GROUND - 6}" fill="#555">parameters</text>',
        f'<text x="8" y="{GROUND + 20}" fill="#555">val top-1</text>',
    ]
    for place, stage in enumerate(stages):
        x, params, colour = LEFT + place * step, stage["params"], COLOURS[stage["kind"]]
        high = 20 + 115 * math.log(params / least) / math.log(most / least)
        size = f"{params / 1e6:.1f} M" if params >= 1e6 else f"{params / 1e3:.0f} k"
        middle = f'x="{x + wide / 2:.0f}" text-anchor="middle"'
        parts += [
            f'<rect x="{x:.0f}" y="{GROUND - high:.0f}" width="{wide:.0f}" height="{high:.0f}"'
            f' fill="{colour}"/>',
            f'<text {middle} y="{GROUND - high - 22:.0f}" font-weight="bold" fill="{colour}">'
            f"{stage['kind']}</text>",
            f'<text {middle} y="{GROUND - high - 7:.0f}" fill="#333">{size}</text>',
            f'<text {middle} y="{GROUND + 20}" fill="#333">{100 * stage["val"]:.1f} %</text>',
        ]
    parts.append(
        f'<text x="{LEFT}" y="{GROUND + 42}" fill="#555">'
        f"{stages[0]['network']} teaches {stages[1]['network']}; then "
        "channels go, round by round, each round followed by learning, until the budget is met"
        "</text></svg>"
    )
    return "\n".join(parts) + "\n"


if __name__ == "__main__":
    source, target = sys.argv[1:]
    Path(target).write_text(draw(json.loads(Path(source).read_text())["stages"]))
