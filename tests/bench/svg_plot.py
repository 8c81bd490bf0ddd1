"""Line plots as SVG, without any library: a grid of panels, each with axes, ticks, labels and a legend."""
import dataclasses
import html
import math

WIDTH, HEIGHT = 400, 290  # of a panel
LEFT, RIGHT, TOP, BOTTOM = 62, 14, 54, 46  # margins around its axes
COLUMNS = 2
COLORS = ["#1b6ca8", "#c8551b", "#4a8f3c", "#7a4ea3", "#8a8a8a"]


@dataclasses.dataclass
class Panel:
    """One plot. series: name to points (x, y); the y axis begins at 0. An x axis of powers is logarithmic. Where there are too many
    points to mark and label each, they are dense: a line alone, over an x axis that begins at 0."""
    title: str
    x_label: str
    y_label: str
    series: dict
    logarithmic: bool = True
    dense: bool = False


def nice_step(top, steps=5):
    """A step of 1, 2 or 5 times a power of ten that divides [0, top] into about so many."""
    rough = top / steps
    power = 10 ** math.floor(math.log10(rough))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)


def number(value):
    return f"{value:.10g}"


def text(x, y, words, anchor="middle", size=12, extra=""):
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}"{extra}>{html.escape(words)}</text>'


def draw_panel(panel, left, top):
    """The elements of one panel whose corner is at (left, top)."""
    points = [point for line in panel.series.values() for point in line]
    if not points:
        raise ValueError(f"panel '{panel.title}' has no points")
    place = math.log2 if panel.logarithmic and not panel.dense else float
    xs = sorted({x for x, _ in points})
    if panel.dense:
        x_step = nice_step(xs[-1] or 1)
        xs = [tick * x_step for tick in range(math.ceil(xs[-1] / x_step) + 1)]
    first, last = place(xs[0]), place(xs[-1])
    step = nice_step(max(y for _, y in points) or 1)
    highest = step * math.ceil(max(y for _, y in points) / step) or step
    x0, x1, y0, y1 = left + LEFT, left + WIDTH - RIGHT, top + HEIGHT - BOTTOM, top + TOP

    def at_x(x):
        return x0 + 12 + (x1 - x0 - 24) * ((place(x) - first) / (last - first) if last > first else 0.5)

    def at_y(y):
        return y0 - (y0 - y1) * y / highest

    out = [text(left + WIDTH / 2, top + 18, panel.title, size=13, extra=' font-weight="bold"')]
    for tick in range(round(highest / step) + 1):
        y = at_y(tick * step)
        out.append(f'<line x1="{x0}" y1="{y:.1f}" x2="{x1}" y2="{y:.1f}" stroke="#dddddd"/>')
        out.append(text(x0 - 6, y + 4, number(tick * step), "end", 11))
    for x in xs:
        out.append(text(at_x(x), y0 + 16, number(x), size=11))
    out.append(f'<path d="M{x0} {y1}V{y0}H{x1}" fill="none" stroke="#444444"/>')
    out.append(text((x0 + x1) / 2, y0 + 36, panel.x_label))
    middle = (y0 + y1) / 2
    out.append(text(left + 16, middle, panel.y_label, extra=f' transform="rotate(-90 {left + 16} {middle})"'))
    for number_of_line, (name, line) in enumerate(panel.series.items()):
        color = COLORS[number_of_line % len(COLORS)]
        corners = " ".join(f"{at_x(x):.1f},{at_y(y):.1f}" for x, y in sorted(line))
        out.append(f'<polyline points="{corners}" fill="none" stroke="{color}" stroke-width="2"/>')
        out += [] if panel.dense else [f'<circle cx="{at_x(x):.1f}" cy="{at_y(y):.1f}" r="3" fill="{color}"/>' for x, y in line]
        x = x0 + 110 * number_of_line
        out.append(f'<line x1="{x}" y1="{y1 - 14}" x2="{x + 18}" y2="{y1 - 14}" stroke="{color}" stroke-width="2"/>')
        out.append(text(x + 23, y1 - 10, name, "start", 11))
    return out


def draw(panels):
    """The SVG document of all panels, two in a row."""
    rows = -(-len(panels) // COLUMNS)
    width, height = WIDTH * min(COLUMNS, len(panels)), HEIGHT * rows
    body = []
    for index, panel in enumerate(panels):
        body += draw_panel(panel, index % COLUMNS * WIDTH, index // COLUMNS * HEIGHT)
    return (f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
            'font-family="Helvetica, Arial, sans-serif">\n<rect width="100%" height="100%" fill="white"/>\n'
            + "\n".join(body) + "\n</svg>\n")
