"""A small SVG plot of lines over one axis. Colours are readable on white and on black; the text follows the reader's scheme."""

import math
from html import escape

WIDTH, HEIGHT = 640, 400
LEFT, RIGHT, TOP, BOTTOM = 70, 20, 62, 84
COLOURS = ["#3b82d0", "#d97a1f", "#3a9d5d", "#a066c8"]
STYLE = """
text { font: 12px sans-serif; fill: #444 }
.title { font-size: 14px }
.faint { fill: #777 }
.grid { stroke: #888; stroke-opacity: 0.25 }
.axis { stroke: #888 }
@media (prefers-color-scheme: dark) { text { fill: #ccc } .faint { fill: #999 } }
"""


def ticks(most):
    """Round steps from 0 up to what holds `most`, about five."""
    raw = most / 5
    power = 10 ** math.floor(math.log10(raw))
    step = next(power * m for m in (1, 2, 2.5, 5, 10) if power * m >= raw * 0.999)
    return [i * step for i in range(math.ceil(most / step - 1e-9) + 1)]


def number(x):
    return f"{x:,.10g}".replace(",", " ")


class Plot:
    """Lines over x, which is logarithmic to the base 2 if `log`; y begins at 0."""

    def __init__(self, title, about, x_label, y_label, log):
        self.title, self.about, self.x_label, self.y_label, self.log = title, about, x_label, y_label, log
        self.lines = []

    def line(self, name, points, dashed=False, bars=None):
        """Points from left to right. A dashed line has no marks; `bars` are the least and the most of each point."""
        self.lines.append((name, points, dashed, bars or []))

    def svg(self):
        xs = sorted({x for _, points, _, _ in self.lines for x, _ in points})
        tops = [y for _, points, _, _ in self.lines for _, y in points] + [most for *_, bars in self.lines for _, most in bars]
        y_ticks = ticks(max(tops) or 1)
        scale = math.log2 if self.log else float
        first, last = scale(xs[0] if self.log else min(0, xs[0])), scale(xs[-1])
        at_x = lambda x: LEFT + (scale(x) - first) / ((last - first) or 1) * (WIDTH - LEFT - RIGHT)
        at_y = lambda y: HEIGHT - BOTTOM - y / y_ticks[-1] * (HEIGHT - TOP - BOTTOM)
        x_ticks = xs if self.log else [x for x in ticks(xs[-1]) if x <= xs[-1]]
        out = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" role="img">',
            f"<title>{escape(self.title)}</title><style>{STYLE}</style>",
            self.text(LEFT, 22, self.title, "start", "title"),
            self.text(LEFT, 42, self.about, "start", "faint"),
        ]
        for y in y_ticks:
            kind = "grid" if y else "axis"
            out.append(f'<path class="{kind}" d="M{LEFT} {at_y(y):.1f}H{WIDTH - RIGHT}"/>')
            out.append(self.text(LEFT - 8, at_y(y) + 4, number(y), "end"))
        for x in x_ticks:
            out.append(f'<path class="grid" d="M{at_x(x):.1f} {TOP}V{HEIGHT - BOTTOM}"/>')
            out.append(self.text(at_x(x), HEIGHT - BOTTOM + 18, number(x), "middle"))
        out.append(self.text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - BOTTOM + 38, self.x_label, "middle"))
        middle = (TOP + HEIGHT - BOTTOM) / 2
        out.append(f'<text transform="translate(18 {middle}) rotate(-90)" text-anchor="middle">{escape(self.y_label)}</text>')
        legend = LEFT
        for i, (name, points, dashed, bars) in enumerate(self.lines):
            colour = COLOURS[i % len(COLOURS)]
            stroke = f'fill="none" stroke="{colour}" stroke-width="2"' + (' stroke-dasharray="6 5"' if dashed else "")
            path = "L".join(f"{at_x(x):.1f} {at_y(y):.1f}" for x, y in points)
            out.append(f'<path {stroke} d="M{path}"/>')
            for (x, _), (least, most) in zip(points, bars):
                out.append(f'<path stroke="{colour}" d="M{at_x(x):.1f} {at_y(least):.1f}V{at_y(most):.1f}"/>')
            if not dashed:
                out += [f'<circle cx="{at_x(x):.1f}" cy="{at_y(y):.1f}" r="3.5" fill="{colour}"/>' for x, y in points]
            out.append(f'<path {stroke} d="M{legend} {HEIGHT - 18}h24"/>')
            out.append(self.text(legend + 30, HEIGHT - 14, name, "start"))
            legend += 48 + 7 * len(name)
        return "\n".join(out + ["</svg>", ""])

    @staticmethod
    def text(x, y, what, anchor, kind=""):
        return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(what)}</text>'
