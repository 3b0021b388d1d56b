"""The house as an SVG: floors as bands, wings as rooms with their files, arrows for imports between wings.

Geometry only; what it draws is read from the code by ``docs/house.py``. Nothing is measured by a font, so that the same
house gives the same bytes on every machine: widths are those of a font's typical character.
"""

from __future__ import annotations

import colorsys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from itertools import pairwise

WIDTH, MARGIN = 1200, 56  # of the picture; from its sides to the walls
GAP, STOREY = 30, 46  # least distance of two rooms; height between two floors, where the arrows run
PAD, LINE = 12, 15
TITLE, PURPOSE, FILES = 16, 12, 11  # font sizes
CHARACTER = {TITLE: 0.62, PURPOSE: 0.57, FILES: 0.61}  # width of a character in units of its size
ROOF, ATTIC = 160, 76  # heights of the roof and of the room in it

STYLE = """
  text { font-family: system-ui, -apple-system, "Segoe UI", Helvetica, Arial, sans-serif; }
  .paper { fill: #fcfbf8 } .wall { fill: none; stroke: #cfc9bb; stroke-width: 1.5 } .slab { stroke: #e4dfd3 }
  .room { fill: #ffffff; stroke: #d5cfc2 } .title { fill: #1c2733; font-weight: 650 } .purpose { fill: #59636e }
  .files { fill: #24507a; font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace }
  .number { fill: #a49d8d } .note { fill: #7a7466 } .arrow { fill: none; stroke-width: 1.6; stroke-opacity: .8 }
  @media (prefers-color-scheme: dark) {
    .paper { fill: #11161c } .wall { stroke: #3b444f } .slab { stroke: #232b34 }
    .room { fill: #182029; stroke: #36414d } .title { fill: #eef2f6 } .purpose { fill: #a3afbb }
    .files { fill: #8fc1f0 } .number { fill: #66707b } .note { fill: #8b95a0 }
  }
"""


@dataclass
class Room:
    """A wing: its name, its purpose in one sentence, its files (a list for each folder), and where it stands."""

    name: str
    purpose: str
    files: Mapping[str, Sequence[str]]
    x: float = 0
    y: float = 0
    width: float = 0
    height: float = 0
    floor: int = 0
    leaving: list[str] = field(default_factory=list)
    arriving: list[str] = field(default_factory=list)

    @property
    def middle(self) -> float:
        return self.x + self.width / 2

    def lines(self, width: float) -> tuple[list[str], list[str]]:
        """The lines of purpose and of files in a room of this width."""
        inner = width - 2 * PAD
        files = [
            line
            for folder, names in self.files.items()
            for line in _wrapped([*([f"{folder}/"] if folder else []), *names], inner, FILES, "  ")
        ]
        return _wrapped(self.purpose.split(), inner, PURPOSE, " "), files

    def least_width(self, num_lines: int) -> float:
        """The smallest width at which purpose and files together take at most so many lines."""
        width = 2 * PAD + len(self.name) * TITLE * CHARACTER[TITLE]
        while True:
            purpose, files = self.lines(width)
            longest = max((len(line) for line in files), default=0) * FILES * CHARACTER[FILES]
            if len(purpose) + len(files) <= num_lines and longest <= width - 2 * PAD:
                return width
            width += 4


def _wrapped(words: Iterable[str], width: float, size: int, space: str) -> list[str]:
    """Words in lines of at most this width."""
    most = int(width / (size * CHARACTER[size]))
    lines: list[str] = []
    for word in words:
        if lines and len(lines[-1]) + len(space) + len(word) <= most:
            lines[-1] += space + word
        else:
            lines.append(word)
    return lines


def drawing(floors: Sequence[Sequence[Room]], arrows: Iterable[tuple[str, str]]) -> str:
    """The picture; ``floors`` from the ground up, ``arrows`` from importer to imported."""
    height = _placed(floors)
    rooms = {room.name: room for floor in floors for room in floor}
    arrows = sorted(arrows)
    for importer, imported in arrows:
        rooms[importer].leaving.append(imported)
        rooms[imported].arriving.append(importer)
    for room in rooms.values():
        room.leaving.sort(key=lambda name: rooms[name].middle)
        room.arriving.sort(key=lambda name: rooms[name].middle)
    colours = [_colour(number / len(floors)) for number in range(len(floors))]
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {_n(height)}" width="{WIDTH}" '
        f'height="{_n(height)}" role="img" aria-label="The wings of gkd on their floors">',
        f"<style>{STYLE}</style>",
        "<defs>",
        *(_head(number, colour) for number, colour in enumerate(colours)),
        "</defs>",
        f'<rect class="paper" width="{WIDTH}" height="{_n(height)}" rx="10"/>',
        *_walls(floors),
        *_ways(floors, rooms, arrows, colours),
        *(part for room in rooms.values() for part in _room(room, colours[room.floor])),
        f'<text class="note" x="{MARGIN}" y="{_n(height - 22)}" font-size="12">An arrow is an import. One is left '
        "out where a chain of others leads to the same wing; none runs upwards.</text>",
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _placed(floors: Sequence[Sequence[Room]]) -> float:
    """Gives every room its place, the roof on top; the height of the picture."""
    top = 24.0
    for number in range(len(floors) - 1, -1, -1):
        floor = floors[number]
        roof = number == len(floors) - 1
        inner = WIDTH - 2 * MARGIN - GAP * (len(floor) + 1)
        num_lines = max(3, *(len(room.files) + 2 for room in floor))  # fewer make a room wide and hollow
        while sum(room.least_width(num_lines) for room in floor) > inner:
            num_lines += 1
        for room in floor:
            room.width = 300 if roof else room.least_width(num_lines)
        most = max(sum(len(lines) for lines in room.lines(room.width)) for room in floor)
        height = ATTIC if roof else 2 * PAD + TITLE + 4 + LINE * most
        top += ROOF - ATTIC - STOREY if roof else 0
        space = (WIDTH - 2 * MARGIN - sum(room.width for room in floor)) / (len(floor) + 1)
        x = MARGIN + space
        for room in floor:
            room.floor, room.x, room.y, room.height = number, x, top, height
            x += room.width + space
        top += height + STOREY
    return top + 24


def _walls(floors: Sequence[Sequence[Room]]) -> Iterable[str]:
    """Roof, walls, floors and their numbers."""
    attic, ground = floors[-1][0], floors[0][0]
    eaves, bottom = attic.y + attic.height + STOREY / 2, ground.y + ground.height + STOREY / 2
    left, right = MARGIN - 20, WIDTH - MARGIN + 20
    yield f'<path class="wall" d="M{left - 16},{_n(eaves)} L{WIDTH / 2:g},14 L{right + 16},{_n(eaves)} Z"/>'
    yield f'<path class="wall" d="M{left},{_n(eaves)} V{_n(bottom)} H{right} V{_n(eaves)}"/>'
    for number, floor in enumerate(floors[:-1]):
        room = floor[0]
        if number:
            y = _n(room.y + room.height + STOREY / 2)
            yield f'<path class="slab" d="M{left},{y} H{right}"/>'
        y = _n(room.y + room.height / 2 + 7)
        yield f'<text class="number" x="{left + 12}" y="{y}" font-size="20">{number + 1}</text>'


def _room(room: Room, colour: str) -> Iterable[str]:
    """A room: its frame, its name, what it is for, its files."""
    purpose, files = room.lines(room.width)
    x, y = _n(room.x), _n(room.y)
    yield f"<g><title>{escape(room.name)}: {escape(room.purpose)}</title>"
    yield f'<rect class="room" x="{x}" y="{y}" width="{_n(room.width)}" height="{_n(room.height)}" rx="5"/>'
    yield f'<rect fill="{colour}" x="{x}" y="{y}" width="{_n(room.width)}" height="3.5" rx="1.75"/>'
    line = room.y + PAD + TITLE
    yield f'<text class="title" x="{_n(room.x + PAD)}" y="{_n(line)}" font-size="{TITLE}">{room.name}</text>'
    line += 4
    for style, size, lines in (("purpose", PURPOSE, purpose), ("files", FILES, files)):
        for text in lines:
            line += LINE
            # Two spaces between files: no-break ones, for plain ones collapse.
            shown = escape(text).replace("  ", "\u00a0 ")
            yield f'<text class="{style}" x="{_n(room.x + PAD)}" y="{_n(line)}" font-size="{size}">{shown}</text>'
        line += 2
    yield "</g>"


def _ways(
    floors: Sequence[Sequence[Room]],
    rooms: Mapping[str, Room],
    arrows: Sequence[tuple[str, str]],
    colours: Sequence[str],
) -> Iterable[str]:
    """The arrows. One that passes a floor takes a gap between rooms there, several in a gap keep apart."""
    taken: dict[tuple[int, float], int] = {}
    for importer, imported in arrows:
        above, below = rooms[importer], rooms[imported]
        start = (_port(above, above.leaving, imported), above.y + above.height)
        end = (_port(below, below.arriving, importer), below.y)
        if above.floor == below.floor:  # under the floor, and up again
            bottom = below.y + below.height + 6
            depth = max(start[1], bottom) + STOREY * 0.4
            curve = f"M{_n(start[0])},{_n(start[1])} C{_n(start[0])},{_n(depth)} {_n(end[0])},{_n(depth)} "
            yield _arrow(above, below, colours[above.floor], f"{curve}{_n(end[0])},{_n(bottom)}")
            continue
        points = [start]
        for number in range(above.floor - 1, below.floor, -1):
            passed = floors[number]
            wish = points[-1][0] + (end[0] - points[-1][0]) / (number - below.floor + 1)
            gap = min(_gaps(passed), key=lambda x: abs(x - wish))
            taken[number, gap] = taken.get((number, gap), 0) + 1
            x = gap + 7 * (taken[number, gap] // 2) * (-1) ** taken[number, gap]
            points += [(x, passed[0].y - 4), (x, passed[0].y + passed[0].height + 4)]
        points.append((end[0], end[1] - 6))  # the head reaches the room
        yield _arrow(above, below, colours[above.floor], _curve(points))


def _arrow(above: Room, below: Room, colour: str, curve: str) -> str:
    return (
        f'<path class="arrow" stroke="{colour}" marker-end="url(#head{above.floor})" d="{curve}">'
        f"<title>{above.name} imports {below.name}</title></path>"
    )


def _gaps(floor: Sequence[Room]) -> list[float]:
    """The middles of the free places of a floor: beside the walls and between rooms."""
    edges = [
        MARGIN - 8.0,
        *(x for room in floor for x in (room.x, room.x + room.width)),
        WIDTH - MARGIN + 8.0,
    ]
    return [(left + right) / 2 for left, right in zip(edges[::2], edges[1::2], strict=True)]


def _port(room: Room, others: Sequence[str], other: str) -> float:
    """Where an arrow leaves or reaches a room: side by side in the order of the other ends."""
    return room.x + room.width * (0.2 + 0.6 * (others.index(other) + 0.5) / len(others))


def _curve(points: Sequence[tuple[float, float]]) -> str:
    """A path that leaves and arrives upright."""
    path = f"M{_n(points[0][0])},{_n(points[0][1])}"
    for (x, y), (to_x, to_y) in pairwise(points):
        bend = (to_y - y) * 0.55
        if x == to_x:
            path += f" V{_n(to_y)}"
        else:
            path += f" C{_n(x)},{_n(y + bend)} {_n(to_x)},{_n(to_y - bend)} {_n(to_x)},{_n(to_y)}"
    return path


def _head(number: int, colour: str) -> str:
    """An arrow head in the colour of a floor."""
    return (
        f'<marker id="head{number}" viewBox="0 0 8 8" refX="2" refY="4" markerWidth="8" markerHeight="8" '
        f'markerUnits="userSpaceOnUse" orient="auto"><path fill="{colour}" d="M0,0.5 L8,4 L0,7.5 Z"/></marker>'
    )


def _colour(share: float) -> str:
    """A colour that reads on light and on dark paper, from blue on the ground to red under the roof."""
    red, green, blue = colorsys.hls_to_rgb((0.58 - 0.6 * share) % 1, 0.5, 0.45)
    return f"#{round(red * 255):02x}{round(green * 255):02x}{round(blue * 255):02x}"


def _n(number: float) -> str:
    """A coordinate, to a tenth."""
    return f"{round(number, 1):g}"
