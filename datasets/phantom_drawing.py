"""Drawing of the phantom's radiographs: a chest, the marks of its findings, and the film. Pure functions, no files.

A picture is a sum of attenuations: soft tissue, bone and heart add to it, air subtracts, a mark adds its own; the film
turns the sum into gray values. Three coordinate systems are used:

- the film: fractions of its width and height, (0, 0) the upper left corner;
- the body: the same unit with the patient upright; x = 0 is the midline, the patient's left has positive x (and side 1)
  and is on the right of the film, as the reader faces the patient; `away` is the distance from the midline;
- a lung: `across` from -1 (at the mediastinum) to 1 (at the ribs), `down` from 0 (apex) to 1 (costophrenic angle).

A sign of a finding is a list of `Mark`s, and a mark has an outline. The box of a sign is the box around its outlines,
and its marks are painted inside that box only, so that boxes and pixels agree. Two findings change the body (`bend`).

People, views and marks are described by float32 arrays (n, 1). So the same code computes the boxes of a hundred
thousand pictures at once, with the points of outlines (n, P), and draws one of them (n = 1), with the points of the
film.
"""

import math
from collections.abc import Sequence
from functools import cache
from typing import Annotated, NamedTuple, TypeVar, get_type_hints

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter

Array = np.ndarray
Value = Array | np.float32 | float
Traits = TypeVar("Traits", "Person", "View")

GRID = 160  # bodies are drawn on GRID x GRID points, then scaled; noise is added at the picture's size
POINTS = np.linspace(0, 1, 48, dtype=np.float32)  # positions along an outline
LEVEL = np.float32(0)  # an angle of 0; a Python 0 would become float64 in a cosine, and widen complete pictures
NECK = 0.1  # half the neck's width; the shoulders begin there
CAP = 6  # below the apex, the distance from the chest wall grows by this much of `across` for each `down`
HILUM = (0.05, 0.42)  # where the vessels enter a lung: away, y


class Person(NamedTuple):
    """Anatomy, the same in all pictures of a patient: traits, and the range in which each is uniformly distributed.

    Lengths and heights are fractions of the film; densities have no unit.
    """

    width: Annotated[Array, 0.325, 0.38]  # midline to inner chest wall
    apex: Annotated[Array, 0.09, 0.14]  # height of the lungs' tops
    dome: Annotated[Array, 0.66, 0.76]  # height of the right diaphragm
    left_lower: Annotated[Array, 0.0, 0.03]  # how much lower the left diaphragm is
    depth: Annotated[Array, 0.07, 0.11]  # costophrenic angle below the dome
    medial: Annotated[Array, 0.045, 0.06]  # midline to lung
    heart: Annotated[Array, 0.40, 0.475]  # cardiothoracic ratio
    heart_height: Annotated[Array, 0.14, 0.18]  # half of it
    torso: Annotated[Array, 0.45, 0.6]  # half the body's width: thin to stout
    shoulder: Annotated[Array, -0.03, 0.03]  # height of the shoulders at the neck
    rib_gap: Annotated[Array, 0.062, 0.076]  # from one rib to the next
    rib_slope: Annotated[Array, 1.0, 1.9]  # how steeply the ribs fall
    bone: Annotated[Array, 0.07, 0.13]  # how dense they are
    breast: Annotated[Array, -0.12, 0.09]  # soft tissue in front of the lower lungs; none below 0
    aorta: Annotated[Array, 0.02, 0.045]  # size of its knob
    vessels: Annotated[Array, 0.09, 0.17]  # their contrast
    air: Annotated[Array, 0.42, 0.5]  # how much the lungs subtract
    gas: Annotated[Array, -0.12, 0.18]  # how much the stomach's bubble subtracts; none below 0
    tree: Annotated[Array, 0.0, 1.0]  # which branching of the vessels


class View(NamedTuple):
    """Pose, breath and exposure of one picture: traits and their ranges."""

    turn: Annotated[Array, -0.05, 0.05]  # radians
    right: Annotated[Array, -0.035, 0.035]  # shift of the body on the film
    low: Annotated[Array, -0.04, 0.03]
    magnify: Annotated[Array, 0.88, 1.08]
    breath: Annotated[Array, -0.02, 0.02]  # the diaphragm: lower when deep
    haze: Annotated[Array, 0.0, 0.16]  # scattered radiation
    density: Annotated[Array, 1.7, 2.7]  # how strongly attenuation brightens
    black: Annotated[Array, 0.0, 0.08]  # gray, of [0, 1], where nothing attenuates
    white: Annotated[Array, 0.88, 1.0]
    noise: Annotated[Array, 0.005, 0.02]  # standard deviation of the gray
    letter_x: Annotated[Array, 0.8, 0.93]  # position of the lead letter on the film
    letter_y: Annotated[Array, 0.02, 0.1]
    grain: Annotated[Array, 0.0, 1.0]  # which part of the textures is seen


RANGES = {
    kind: [hint.__metadata__ for hint in get_type_hints(kind, include_extras=True).values()] for kind in (Person, View)
}


def mix(low: float, high: float, fraction: Array) -> Array:
    """Interpolate: the value at `fraction`, in 0..1, of the way from `low` to `high`."""
    value: Array = low + (high - low) * fraction
    return value


def sample(kind: type[Traits], uniforms: Array) -> Traits:
    """Make people or views from uniform random numbers of [0, 1), (n, len(RANGES[kind]))."""
    uniforms = uniforms.astype(np.float32)
    return kind(*(mix(low, high, uniforms[:, k : k + 1]) for k, (low, high) in enumerate(RANGES[kind])))


def rows(traits: Traits, which: Sequence[int] | Array) -> Traits:
    """Select people or views by row number."""
    return type(traits)(*(trait[which] for trait in traits))


def _ramp(values: Value) -> Array:
    clipped: Array = np.clip(values, 0, 1)
    return clipped


def _disc(x: Array, y: Array, wide: Value, high: Value) -> Array:
    """Compute a function that is 0 at (0, 0) and 1 on an ellipse of these half axes."""
    x, y = x / wide, y / high
    squared: Array = x * x + y * y
    return squared


# The shape of a body -------------------------------------------------------------------------------------------------


def bend(person: Person, view: View, large_heart: Array, trapped_air: Array) -> Person:
    """Change the body as breath, Cardiomegaly and Emphysema do in one picture.

    Args:
        person: the patient's anatomy.
        view: its breath.
        large_heart: strength of Cardiomegaly in 0..1, (n, 1); 0 if absent.
        trapped_air: strength of Emphysema.
    """
    return person._replace(
        dome=person.dome + view.breath + 0.06 * trapped_air,
        depth=person.depth * (1 - 0.5 * trapped_air),
        width=person.width + 0.01 * trapped_air,
        air=person.air + 0.07 * trapped_air,
        vessels=person.vessels * (1 - 0.5 * trapped_air),
        heart=person.heart * (1 - 0.1 * trapped_air) + 0.17 * large_heart,
        heart_height=person.heart_height + 0.02 * large_heart,
    )


def heart_outline(body: Person) -> "Ellipse":
    """Return the heart: its width over that of the chest is the cardiothoracic ratio."""
    wide, high = body.heart * body.width, body.heart_height
    return Ellipse(0.33 * wide, body.dome - 0.7 * high, wide, high, lean=0.5)


def spot(body: Person, side: Value, across: Value, down: Value) -> tuple[Array, Array]:
    """Convert coordinates of the lung of one side to body coordinates, kept above the diaphragm."""
    middle, half = _lung(body, down)
    away = middle + across * half
    y = body.apex + down * (body.dome + body.depth - body.apex)
    return side * away, np.minimum(y, _diaphragm(body, side, away))


def _lung(body: Person, down: Value) -> tuple[Array, Array]:
    """Compute the middle and half width of a lung at this height, as distances from the midline."""
    top = 0.4 * body.width
    above, inner = 1 - _ramp(down), 1 - _ramp(3 * down)
    lateral = top + (body.width - top) * np.sqrt(1 - above * above * above)
    medial = top - (top - body.medial) * np.sqrt(1 - inner * inner)
    return (lateral + medial) / 2, np.maximum((lateral - medial) / 2, 0.004)


def _diaphragm(body: Person, side: Value, away: Array) -> Array:
    """Compute the diaphragm's height at a distance from the midline."""
    fall = np.minimum((away - 0.15) / (body.width - 0.15), 1.1)
    height: Array = body.dome + (side > 0) * body.left_lower + body.depth * fall * fall
    return height


def _into_lung(body: Person, side: Value, x: Array, y: Array) -> tuple[Array, Array]:
    """Move points to the nearest ones of the same height inside a lung, kept above the diaphragm."""
    middle, half = _lung(body, (y - body.apex) / (body.dome + body.depth - body.apex))
    away = np.clip(side * x, middle - half, middle + half)
    return side * away, np.clip(y, body.apex, _diaphragm(body, side, away))


def _onto_film(view: View, x: Array, y: Array) -> tuple[Array, Array]:
    """Convert body coordinates to film coordinates; `_field` is the inverse."""
    cos, sin = np.cos(view.turn) * view.magnify, np.sin(view.turn) * view.magnify
    return cos * x - sin * (y - 0.5) + view.right + 0.5, sin * x + cos * (y - 0.5) + view.low + 0.5


class Field(NamedTuple):
    """Coordinates at the points of the film, each (GRID, GRID) or a window of it."""

    x: Array
    y: Array
    side: Array
    away: Array
    across: Array
    down: Array
    clear: Array  # height above the diaphragm, negative below it
    lung: Array  # 1 in the lungs, 0 outside, soft at the edges


def _field(body: Person, view: View) -> Field:
    """Compute the body and lung coordinates of the points of the film."""
    steps = (np.arange(GRID, dtype=np.float32) + 0.5) / GRID - 0.5
    right, low = steps[None, :] - view.right, steps[:, None] - view.low
    cos, sin = np.cos(view.turn) / view.magnify, np.sin(view.turn) / view.magnify
    x, y = cos * right + sin * low, cos * low - sin * right + 0.5
    side, away = np.sign(x), np.abs(x)
    down = (y - body.apex) / (body.dome + body.depth - body.apex)
    middle, half = _lung(body, down)
    across = (away - middle) / half
    clear = _diaphragm(body, side, away) - y
    lung = _ramp((1 - np.abs(across)) * half * 80) * _ramp(clear * 80) * (down > 0)
    return Field(x, y, side, away, across, down, clear, lung)


# Marks ---------------------------------------------------------------------------------------------------------------
# `outline` gives points in body coordinates, (n, P); `reach` is below 1 within the outline, 1 on it, more outside.


class Ellipse(NamedTuple):
    """Ellipse in body coordinates: rotated, leaning, tapering, cut off above or below, or clipped to a lung."""

    x: Array
    y: Array
    along: Array  # the half axes
    athwart: Array
    angle: Value = LEVEL
    taper: Value = 0.0  # thicker by this fraction towards one end, thinner towards the other
    lean: float = 0.0  # sideways offset of the lower end, in half axes
    top: float = -1.0  # cut off above this fraction of `athwart`, and below `bottom`
    bottom: float = 1.0
    side: Value | None = None  # the lung that it is clipped to, if any

    def outline(self, body: Person) -> tuple[Array, Array]:
        turn = 2 * np.pi * POINTS
        along, athwart = np.cos(turn), np.clip(np.sin(turn), self.top, self.bottom)
        athwart = self.athwart * athwart * (1 + self.taper * along)
        along = self.along * (along * math.sqrt(1 - self.lean**2) + self.lean * np.sin(turn))
        cos, sin = np.cos(self.angle), np.sin(self.angle)
        x, y = self.x + along * cos - athwart * sin, self.y + along * sin + athwart * cos
        return (x, y) if self.side is None else _into_lung(body, self.side, x, y)

    def reach(self, field: Field) -> Array:
        x, y = field.x - self.x, field.y - self.y
        cos, sin = np.cos(self.angle), np.sin(self.angle)
        along, athwart = (x * cos + y * sin) / self.along, (y * cos - x * sin) / self.athwart
        along = (along - self.lean * athwart) / math.sqrt(1 - self.lean**2)
        athwart = athwart / (1 + self.taper * np.clip(along, -1, 1))
        inside = (athwart >= self.top) & (athwart <= self.bottom)
        return np.where(inside, np.sqrt(along * along + athwart * athwart), np.float32(2))


class Rim(NamedTuple):
    """Band inside the chest wall, widest at `center` (a `down`) and ending `length` above and below it."""

    side: Value
    center: Value
    length: Value
    girth: Array  # at the widest, in units of `across`

    def outline(self, body: Person) -> tuple[Array, Array]:
        down = np.clip(self.center + self.length * (2 * POINTS - 1), 0, 1)
        girth = self._girth(down)
        inner = np.where(CAP * down > girth, 1 - girth, -1)
        edges = spot(body, self.side, 1, down), spot(body, self.side, inner, down)
        x, y = (np.concatenate(points, axis=1) for points in zip(*edges, strict=True))
        return x, y

    def reach(self, field: Field) -> Array:
        ratio: Array = np.minimum(1 - field.across, CAP * field.down) / np.maximum(self._girth(field.down), 0.001)
        return ratio

    def _girth(self, down: Array) -> Array:
        off = (down - self.center) / self.length
        girth: Array = self.girth * _ramp(1 - off * off)
        return girth


class Base(NamedTuple):
    """Part of a lung below a surface: at `level` (a `down`), and higher by `rise` at the chest wall, as fluid is."""

    side: Value
    level: Value
    rise: Value

    def outline(self, body: Person) -> tuple[Array, Array]:
        across = 2 * POINTS - 1
        x, y = spot(body, self.side, across, self._surface(across))
        bottom_x, bottom_y = spot(body, self.side, across, 1)
        # Where the surface would be below the diaphragm, use the point at the chest wall instead.
        wet = y < _diaphragm(body, self.side, np.abs(x))
        x, y = np.where(wet, x, x[:, -1:]), np.where(wet, y, y[:, -1:])
        bottom_x, bottom_y = np.where(wet, bottom_x, x), np.where(wet, bottom_y, y)
        return np.concatenate([x, bottom_x], axis=1), np.concatenate([y, bottom_y], axis=1)

    def reach(self, field: Field) -> Array:
        reach: Array = 1 - 10 * (field.down - self._surface(field.across))
        return reach

    def _surface(self, across: Array) -> Array:
        higher = _ramp(across)
        surface: Array = self.level - self.rise * higher * higher
        return surface


class Mark(NamedTuple):
    """Painted shape of a sign."""

    shape: Ellipse | Rim | Base
    amount: Array  # the attenuation that it adds; negative for air
    soft: float = 0.3  # width of its edge, in units of `reach`; 1 is hazy to the middle
    texture: str = ""  # a key of textures(), or none
    rough: float = 0.0  # fraction of the mark that the texture modulates
    hide: float = 0.0  # fraction of the vessels behind it that disappears
    line: bool = False  # whether only the edge is painted


def box(body: Person, view: View, marks: list[Mark]) -> Array:
    """Compute the box around the marks of one sign, clipped to the film: x, y, w, h (n, 4) in fractions of it."""
    outlines = [_onto_film(view, *mark.shape.outline(body)) for mark in marks]
    x, y = (_ramp(np.concatenate(points, axis=1)) for points in zip(*outlines, strict=True))
    left, upper = x.min(axis=1), y.min(axis=1)
    return np.stack([left, upper, x.max(axis=1) - left, y.max(axis=1) - upper], axis=1)


@cache
def textures() -> dict[str, Array]:
    """Make patterns with values of [0, 1], (2 GRID, 2 GRID), periodic with GRID; the same for all pictures."""
    noise = np.random.default_rng(0).standard_normal((GRID, GRID))

    def pattern(height: float, width: float) -> Array:
        smooth = gaussian_filter(noise, (height * GRID, width * GRID), mode="wrap")
        return np.tile(smooth / smooth.std(), (2, 2)).astype(np.float32)

    return {
        "mottled": _ramp(0.5 + 0.6 * pattern(0.022, 0.022)),
        "net": _ramp(1 - 1.3 * np.abs(pattern(0.011, 0.011))),
        "streaks": _ramp(1 - 1.6 * np.abs(pattern(0.008, 0.04))),
        "bronchi": _ramp(1.4 * np.abs(pattern(0.016, 0.016))),
        "vessels": _ramp(1 - 1.8 * np.abs(pattern(0.055, 0.013))),  # down: distance from the hilum; across: direction
    }


# The film ------------------------------------------------------------------------------------------------------------


def draw(body: Person, view: View, signs: list[list[Mark]], size: int, rng: np.random.Generator) -> Array:
    """Draw a radiograph, uint8 (size, size).

    Args:
        body: the patient's body in this picture (n = 1).
        view: pose and exposure (n = 1).
        signs: the marks of each finding.
        size: side of the picture in pixels.
        rng: for the noise, and nothing else.
    """
    field = _field(body, view)
    density, vessels = _tissue(body, field) + _middle(body, field) + _bones(body, field), _vessels(body, field)
    for marks in signs:
        window = _window(box(body, view, marks)[0])
        seen = Field(*(values[window] for values in field))
        for mark in marks:
            _paint(density[window], vessels[window], mark, seen, int(view.grain.item() * GRID))
    return _expose(density + vessels, view, size, rng)


def _tissue(body: Person, field: Field) -> Array:
    """Draw trunk, shoulders and neck, less the air of the lungs."""
    x, y = field.away, field.y
    shoulder = body.shoulder + 0.3 * np.maximum(x - NECK, 0) - _ramp(15 * (NECK + 0.03 - x))
    flare = _ramp(1 - (y - 0.12) / 0.35)
    trunk = _ramp(15 * (body.torso + 0.2 * flare * flare - x)) * _ramp(14 * (y - shoulder))
    belly = _ramp(-12 * field.clear)
    breast = np.maximum(body.breast, 0) * _ramp(1.3 * (1 - _disc(x - 0.6 * body.width, y - body.dome, 0.16, 0.13)))
    gas = np.maximum(body.gas, 0) * _ramp(4 * (1 - _disc(field.x - 0.15, y - body.dome - 0.09, 0.06, 0.04)))
    air = body.air * field.lung * (1 - 0.2 * field.across * field.across)
    attenuation: Array = trunk * (0.55 + 0.12 * y + (0.33 - gas) * belly + breast) - air
    return attenuation


def _middle(body: Person, field: Field) -> Array:
    """Draw heart, great vessels, windpipe and spine."""
    x, y = field.away, field.y
    heart = _ramp(6 * (1 - heart_outline(body).reach(field)))
    knob = _ramp(2 * (1 - _disc(field.x - 0.05, y - 0.3, body.aorta, 1.3 * body.aorta)))
    waist = body.medial + 0.05 * _ramp(3 * y - 0.9) + 0.03 * _ramp(1 - 4 * y)
    trunk = _ramp(30 * (waist - x)) * _ramp(8 * (y - body.apex + 0.05))
    windpipe = _ramp(120 * (0.018 - x)) * (y < 0.38)
    spine = _ramp(60 * (0.036 - x)) * (0.1 + 0.02 * np.cos(y * (2 * math.pi / 0.052)))
    above = _ramp(12 * field.clear + 1)
    attenuation: Array = above * np.maximum(0.36 * heart, 0.28 * np.maximum(trunk, knob)) + spine - 0.1 * windpipe
    return attenuation


def _bones(body: Person, field: Field) -> Array:
    """Draw the ribs behind and in front of the lungs, collar bones and shoulders."""
    x, y = field.away, field.y
    cage = _ramp(5 * (1 - field.across) + 0.6) * _ramp(8 * field.down) * _ramp(10 * (field.clear + 0.12))
    behind, before = y - body.rib_slope * (x - 0.12) ** 2, y + 0.55 * x
    ribs = _ramp(0.15 + 0.85 * np.cos(behind * (2 * math.pi / body.rib_gap)))
    front = _ramp(0.1 + 0.7 * np.cos(before * (2 * math.pi / 1.3 / body.rib_gap))) * _ramp(6 * x - 0.8)
    collar = (y - body.apex - 0.09 + 0.25 * x) / 0.014
    collar = _ramp(1.3 - collar * collar) * _ramp(30 * (x - 0.02)) * _ramp(20 * (0.36 - x))
    joint = _ramp(1.5 * (1 - _disc(x - 0.43, y - body.apex - 0.08, 0.065, 0.08)))
    blade = _ramp(1 - _disc(x - 0.4 + 0.25 * (y - 0.3), y - 0.3, 0.06, 0.16))
    attenuation: Array = body.bone * (cage * (ribs + 0.5 * front) + 1.1 * collar + joint + 0.8 * blade)
    return attenuation


def _vessels(body: Person, field: Field) -> Array:
    """Draw the lung vessels: from the hila, rather up and down than sideways, a little crooked, thinner outwards."""
    x, y = field.away - HILUM[0], field.y - HILUM[1]
    far = np.sqrt(x * x + y * y)
    crooked = 0.04 * textures()["mottled"][:GRID, :GRID]
    turn = np.arctan2(0.6 * y, x) / (2 * math.pi) + crooked + body.tree + 0.4 * (field.side > 0)
    tree = textures()["vessels"][(far * GRID).astype(np.intp) % GRID, (turn * GRID).astype(np.intp) % GRID]
    attenuation: Array = body.vessels * field.lung * (tree * _ramp(1.1 - far / 0.36) + 1.3 * _ramp(1 - far / 0.085))
    return attenuation


def _window(around: Array) -> tuple[slice, slice]:
    """Find the points of the film's grid that a box (x, y, w, h) touches."""
    x, y, w, h = (float(value) * GRID for value in around)
    return slice(int(y), math.ceil(y + h)), slice(int(x), math.ceil(x + w))


def _paint(density: Array, vessels: Array, mark: Mark, field: Field, start: int) -> None:
    """Add a mark to a window of the picture, in place; `start` shifts its texture."""
    inwards = (1 - mark.shape.reach(field)) / mark.soft
    cover = _ramp(1 - np.abs(inwards - 1)) if mark.line else _ramp(inwards)
    if mark.shape.side is not None:
        cover = cover * field.lung * (field.side == mark.shape.side)
    vessels *= 1 - mark.hide * cover
    if mark.texture:
        height, width = cover.shape
        cover = cover * (1 - mark.rough + mark.rough * textures()[mark.texture][start:, start:][:height, :width])
    density += mark.amount * cover


def _expose(density: Array, view: View, size: int, rng: np.random.Generator) -> Array:
    """Convert attenuation to gray values, uint8 (size, size), with scatter, noise and the lead letter."""
    density = np.maximum(density, 0)
    density = density + view.haze * _ramp(8 * density)
    gray = view.black + (view.white - view.black) * (1 - np.exp(-view.density * density))
    gray = np.asarray(Image.fromarray(gray).resize((size, size), Image.Resampling.BICUBIC))
    gray = gray + view.noise * rng.standard_normal((size, size), dtype=np.float32)
    _letter(gray, view)
    return (255 * _ramp(gray)).astype(np.uint8)


def _letter(gray: Array, view: View) -> None:
    """Draw a lead letter L at the upper corner of the patient's left, in place; unrelated to the findings."""
    unit = len(gray) / 128
    left, upper = round(view.letter_x.item() * len(gray)), round(view.letter_y.item() * len(gray))
    wide, high, thick = round(4 * unit), round(7 * unit), max(1, round(1.3 * unit))
    gray[upper : upper + high, left : left + thick] = 0.97
    gray[upper + high - thick : upper + high, left : left + wide] = 0.97
