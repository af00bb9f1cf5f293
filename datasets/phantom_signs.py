"""What each finding of the phantom looks like, and what only looks like one: marks, drawn by phantom_drawing.py."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from . import phantom_drawing as drawing
from .phantom_drawing import Array, Base, Ellipse, Mark, Person, Rim, mix, spot


class Chance(NamedTuple):
    """Variation of a finding between patients: uniform random numbers of [0, 1), (n, 1) each."""

    side: Array
    lateral: Array
    height: Array
    size: Array
    shape: Array
    turn: Array
    strength: Array  # varies from image to image


LASTING = len(Chance._fields) - 1  # the numbers that a patient keeps


def _side(chance: Chance) -> Array:
    return np.where(chance.side < 0.5, np.float32(-1), np.float32(1))


def _atelectasis(body: Person, chance: Chance) -> list[Mark]:
    """Draw a plate, or a wedge, which is a plate with one thick end, in the lower lung."""
    side = _side(chance)
    x, y = spot(body, side, mix(-0.3, 0.45, chance.lateral), mix(0.55, 0.82, chance.height))
    length, girth, taper = mix(0.07, 0.13, chance.size), mix(0.011, 0.028, chance.shape), mix(0, 0.8, chance.shape)
    plate = Ellipse(x, y, length, girth, angle=side * mix(-0.5, 0.35, chance.turn), taper=taper, side=side)
    return [Mark(plate, mix(0.16, 0.34, chance.strength), soft=0.4, hide=0.5)]


def _cardiomegaly(body: Person, chance: Chance) -> list[Mark]:
    """Draw nothing: `bend` has enlarged the heart."""
    return [Mark(drawing.heart_outline(body), 0 * chance.strength)]


def _effusion(body: Person, chance: Chance) -> list[Mark]:
    """Draw fluid over the diaphragm, higher at the chest wall."""
    pool = Base(_side(chance), mix(0.95, 0.62, chance.size), mix(0.08, 0.2, chance.shape))
    return [Mark(pool, mix(0.28, 0.42, chance.strength), soft=0.3, hide=1)]


def _infiltration(body: Person, chance: Chance) -> list[Mark]:
    """Draw a patchy haze without an edge."""
    side = _side(chance)
    x, y = spot(body, side, mix(-0.4, 0.5, chance.lateral), mix(0.25, 0.75, chance.height))
    length, height = mix(0.08, 0.13, chance.size), mix(0.08, 0.14, chance.shape)
    patch = Ellipse(x, y, length, height, angle=mix(-0.8, 0.8, chance.turn), side=side)
    return [Mark(patch, mix(0.14, 0.32, chance.strength), soft=0.7, texture="mottled", rough=0.9, hide=0.3)]


def _mass(body: Person, chance: Chance) -> list[Mark]:
    """Draw a round shadow of more than three centimeters, for a chest width of thirty."""
    x, y = spot(body, _side(chance), mix(-0.4, 0.6, chance.lateral), mix(0.15, 0.75, chance.height))
    length = mix(0.05, 0.085, chance.size)
    lump = Ellipse(x, y, length, length * mix(0.75, 1, chance.shape), angle=mix(0, 3, chance.turn))
    return [Mark(lump, mix(0.16, 0.32, chance.strength), soft=0.3, hide=0.6)]


def _nodule(body: Person, chance: Chance) -> list[Mark]:
    """Draw a round shadow of less than three centimeters."""
    x, y = spot(body, _side(chance), mix(-0.5, 0.7, chance.lateral), mix(0.15, 0.8, chance.height))
    radius = mix(0.022, 0.036, chance.size)
    return [Mark(Ellipse(x, y, radius, radius), mix(0.24, 0.48, chance.strength), soft=0.3, hide=0.6)]


def _pneumonia(body: Person, chance: Chance) -> list[Mark]:
    """Draw a patchy opacity with a denser core, in the middle or lower lung."""
    side = _side(chance)
    x, y = spot(body, side, mix(-0.3, 0.4, chance.lateral), mix(0.5, 0.85, chance.height))
    length, height, angle = mix(0.08, 0.12, chance.size), mix(0.07, 0.11, chance.shape), mix(-0.8, 0.8, chance.turn)
    patch, core = (Ellipse(x, y, scale * length, scale * height, angle, side=side) for scale in (1, 0.65))
    amount = mix(0.1, 0.2, chance.strength)
    return [
        Mark(patch, amount, soft=0.8, texture="mottled", rough=0.8, hide=0.5),
        Mark(core, 1.2 * amount, soft=0.8, texture="mottled", rough=0.2),
    ]


def _pneumothorax(body: Person, chance: Chance) -> list[Mark]:
    """Draw a rim of air without vessels at apex and chest wall, bounded by the fine line of the pleura."""
    rim = Rim(_side(chance), 0 * chance.size, mix(0.5, 0.95, chance.shape), mix(0.35, 0.9, chance.size))
    air = mix(0.035, 0.12, chance.strength)
    return [Mark(rim, -air, soft=0.1, hide=1), Mark(rim, 1.5 * air, soft=0.08, line=True)]


def _consolidation(body: Person, chance: Chance) -> list[Mark]:
    """Draw a dense even opacity that ends at a fissure, with air-filled bronchi in it."""
    side = _side(chance)
    x, y = spot(body, side, mix(-0.3, 0.4, chance.lateral), mix(0.3, 0.75, chance.height))
    length, height = mix(0.09, 0.14, chance.size), mix(0.08, 0.13, chance.shape)
    lobe = Ellipse(x, y, length, height, angle=mix(-0.3, 0.3, chance.turn), top=-0.3, side=side)
    return [Mark(lobe, mix(0.22, 0.38, chance.strength), soft=0.4, texture="bronchi", rough=0.35, hide=0.9)]


def _edema(body: Person, chance: Chance) -> list[Mark]:
    """Draw wings of haze on both sides of the heart, and short lines at the lung bases."""
    amount, marks = mix(0.06, 0.19, chance.strength), []
    for side in (np.float32(-1), np.float32(1)):
        x, y = spot(body, side, mix(-0.45, -0.15, chance.lateral), mix(0.42, 0.55, chance.height))
        wing = Ellipse(x, y, mix(0.1, 0.14, chance.size), mix(0.14, 0.2, chance.shape), side=side)
        lines = Rim(side, np.float32(0.85), np.float32(0.3), mix(0.4, 0.7, chance.shape))
        marks.append(Mark(wing, amount, soft=0.9, texture="mottled", rough=0.4, hide=0.3))
        marks.append(Mark(lines, amount, soft=0.3, texture="streaks", rough=1))
    return marks


def _emphysema(body: Person, chance: Chance) -> list[Mark]:
    """Darken the lungs a little more, after `bend`."""
    lungs = (Base(np.float32(side), np.float32(0), np.float32(0)) for side in (-1, 1))
    return [Mark(lung, mix(-0.01, -0.03, chance.strength)) for lung in lungs]


def _fibrosis(body: Person, chance: Chance) -> list[Mark]:
    """Draw a coarse net in the outer lower parts of both lungs."""
    length, girth, amount = mix(0.35, 0.7, chance.size), mix(0.8, 1.7, chance.shape), mix(0.16, 0.32, chance.strength)
    nets = (Rim(np.float32(side), np.float32(0.9), length, girth) for side in (-1, 1))
    return [Mark(net, amount, soft=0.6, texture="net", rough=1) for net in nets]


def _pleural_thickening(body: Person, chance: Chance) -> list[Mark]:
    """Draw a band along the chest wall or over the apex, brighter than the wall itself."""
    length, girth = mix(0.3, 0.6, chance.size), mix(0.35, 0.65, chance.shape)
    band = Rim(_side(chance), mix(0, 0.9, chance.height), length, girth)
    return [Mark(band, mix(0.42, 0.65, chance.strength), soft=0.35, hide=0.7)]


def _hernia(body: Person, chance: Chance) -> list[Mark]:
    """Draw a round shadow behind the heart, with air over a fluid level."""
    x, y = mix(-0.04, 0.09, chance.lateral), body.dome - mix(0.02, 0.07, chance.height)
    radius, amount = mix(0.065, 0.1, chance.size), mix(0.2, 0.45, chance.strength)
    sac, air = Ellipse(x, y, radius, radius), Ellipse(x, y, 0.8 * radius, 0.8 * radius, bottom=0.1)
    return [Mark(sac, amount, soft=0.2), Mark(air, -1.8 * amount, soft=0.2)]


def _nipples(body: Person, chance: Chance) -> list[Mark]:
    """Draw a nodule on each side at the same place."""
    across, down, radius = mix(0.1, 0.4, chance.lateral), mix(0.7, 0.8, chance.height), mix(0.022, 0.036, chance.size)
    places = [spot(body, np.float32(side), across, down) for side in (-1, 1)]
    return [Mark(Ellipse(x, y, radius, radius), mix(0.24, 0.48, chance.strength), soft=0.3) for x, y in places]


def _vessel_on_end(body: Person, chance: Chance) -> list[Mark]:
    """Draw a nodule at the root of a lung, where vessels are seen from their ends."""
    x = _side(chance) * mix(0.04, 0.1, chance.lateral)
    radius = mix(0.022, 0.03, chance.size)
    y = drawing.HILUM[1] + mix(-0.06, 0.06, chance.height)
    return [Mark(Ellipse(x, y, radius, radius), mix(0.24, 0.48, chance.strength), soft=0.3)]


def _outside(body: Person, chance: Chance) -> list[Mark]:
    """Draw a nodule or a mass outside the lungs: in the armpit, or below the diaphragm."""
    armpit = chance.turn < 0.5
    away = np.where(armpit, body.width + mix(0.05, 0.08, chance.lateral), mix(0.12, 0.3, chance.lateral))
    y = np.where(armpit, mix(0.3, 0.5, chance.height), body.dome + body.depth + mix(0.06, 0.1, chance.height))
    radius = np.where(chance.shape < 0.5, mix(0.022, 0.036, chance.size), mix(0.05, 0.075, chance.size))
    # Where more attenuates, the same shadow needs more.
    lump = Ellipse(_side(chance) * away, y, radius, radius)
    return [Mark(lump, mix(0.35, 0.7, chance.strength), soft=0.3)]


LOOK_ALIKES = (_nipples, _vessel_on_end, _outside)
IN_BOTH_LUNGS = ("Edema", "Emphysema", "Fibrosis")


def by_lung(finding: str, marks: list[Mark]) -> list[list[Mark]]:
    """Return a sign's marks in parts that have a box each: all marks, or those of each lung if both have the sign.

    One box around both lungs would hold nearly the whole image, and every heatmap would point into it.
    """
    if finding not in IN_BOTH_LUNGS:
        return [marks]
    return [[mark for mark in marks if mark.shape.side == side] for side in (-1, 1)]


SIGNS: dict[str, Callable[[Person, Chance], list[Mark]]] = {
    "Atelectasis": _atelectasis,
    "Cardiomegaly": _cardiomegaly,
    "Effusion": _effusion,
    "Infiltration": _infiltration,
    "Mass": _mass,
    "Nodule": _nodule,
    "Pneumonia": _pneumonia,
    "Pneumothorax": _pneumothorax,
    "Consolidation": _consolidation,
    "Edema": _edema,
    "Emphysema": _emphysema,
    "Fibrosis": _fibrosis,
    "Pleural_Thickening": _pleural_thickening,
    "Hernia": _hernia,
}
