"""What the states of an episode look like: plain shapes, which any backend can draw.

A new family needs one function, states -> scenes, handed over as ``Environment.scenes``.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import numpy as np

Point = tuple[float, float]
Color = tuple[int, int, int]

# Two colours that the colour-blind tell apart (Okabe & Ito), and a neutral one.
ALLY: Color = (0, 114, 178)
ENEMY: Color = (213, 94, 0)
GREY: Color = (170, 170, 170)

MPE_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclasses.dataclass(frozen=True)
class Marker:
    """One thing at one place.

    Attributes:
        position: of its centre, in world units.
        radius: in world units.
        color: RGB, 0 to 255.
        shape: what is drawn.
        label: a letter or two inside it.
        bar: filled share [0, 1] of a bar above it; None for no bar.
        ring: drawn share [0, 1] of a ring around it.
    """

    position: Point
    radius: float
    color: Color
    shape: Literal["disc", "square", "cross"] = "disc"
    label: str = ""
    bar: float | None = None
    ring: float = 0.0


@dataclasses.dataclass(frozen=True)
class Line:
    """A segment, in world units."""

    start: Point
    end: Point
    color: Color
    bold: bool = False


@dataclasses.dataclass(frozen=True)
class Scene:
    """One frame: what lies between the corners ``low`` and ``high``, y upwards; lines below markers."""

    low: Point
    high: Point
    markers: tuple[Marker, ...]
    lines: tuple[Line, ...]


def smax_scenes(env: Any, states: Any) -> list[Scene]:
    """A battle: allies are discs, enemies squares, the dead crosses.

    A unit carries the letter of its type, its health as a bar and its weapon's cooldown as a ring. A line in
    the attacker's colour leads to its target, bold if the weapon was fired during the step.

    Args:
        env: JaxMARL's ``EnemySMAX``.
        states: its states [T+1, ...].
    """
    s = states.state
    types = s.unit_types
    position, alive = s.unit_positions.astype(float), s.unit_alive
    health = s.unit_health / np.asarray(env.unit_type_health)[types]
    cooldown = s.unit_weapon_cooldowns / np.asarray(env.unit_type_weapon_cooldowns)[types]
    radius = np.asarray(env.unit_type_radiuses)[types]
    colors = [ALLY] * env.num_allies + [ENEMY] * env.num_enemies
    shapes = ["disc"] * env.num_allies + ["square"] * env.num_enemies

    # A weapon that is not fired cools by exactly the duration of the step.
    step_seconds = env.world_steps_per_env_step * env.time_per_step
    cooled = s.unit_weapon_cooldowns[:-1] - s.unit_weapon_cooldowns[1:]
    fired = cooled < step_seconds - env.time_per_step / 2
    fired = np.concatenate([np.zeros_like(fired[:1]), fired])

    # Enemies count their targets from the last ally backwards.
    aim = s.prev_attack_actions - env.num_movement_actions
    units = np.arange(alive.shape[1])
    target = np.where(units < env.num_allies, env.num_allies + aim, env.num_allies - 1 - aim)
    aims = (aim >= 0) & (fired | alive)

    low, high = _camera(position, margin=1.5, smallest=12.0)
    walls = _box((0.0, 0.0), (float(env.map_width), float(env.map_height)))
    scenes = []
    for t in range(len(alive)):
        markers = [
            Marker(
                position=tuple(position[t, i]),
                radius=float(radius[t, i]),
                color=colors[i],
                shape=shapes[i],
                label=env.unit_type_shorthands[types[t, i]],
                bar=float(health[t, i]),
                ring=float(np.clip(cooldown[t, i], 0.0, 1.0)),
            )
            if alive[t, i]
            else Marker(tuple(position[t, i]), float(radius[t, i]) / 2, _pale(colors[i]), "cross")
            for i in units
        ]
        lines = [
            _shot(position[t, i], position[t, target[t, i]], colors[i], bool(fired[t, i]))
            for i in units[aims[t]]
        ]
        # The living in front of the dead.
        markers.sort(key=lambda marker: marker.shape != "cross")
        scenes.append(Scene(low, high, tuple(markers), (*walls, *lines)))
    return scenes


def mpe_scenes(env: Any, states: Any) -> list[Scene]:
    """Particles: agents are discs, landmarks squares.

    An agent carries its number, or the letter that it says if it can speak. Where agents have a goal, a line
    leads to it.

    Args:
        env: JaxMARL's ``SimpleMPE`` or one of its tasks.
        states: its states [T+1, ...].
    """
    position = states.p_pos.astype(float)
    radius = np.asarray(env.rad, float)
    colors = [tuple(int(c) for c in color) for color in env.colour]
    speaks = ~np.asarray(env.silent, bool)
    # A single goal is that of the last agent, the listener.
    goals = np.zeros((len(position), 0), int)
    if states.goal is not None:
        goals = states.goal.reshape((len(position), -1))
    seekers = range(env.num_agents - goals.shape[1], env.num_agents)

    def label(t: int, i: int) -> str:
        if i >= env.num_agents:
            return ""
        if not speaks[i]:
            return str(i)
        said = states.c[t, i]
        return MPE_LETTERS[said.argmax()] if said.any() else ""

    low, high = _camera(position, margin=0.3, smallest=2.2)
    # What is small lies in front.
    order = np.argsort(-radius, kind="stable")
    scenes = []
    for t in range(len(position)):
        markers = [
            Marker(
                position=tuple(position[t, i]),
                radius=float(radius[i]),
                color=colors[i],
                shape="disc" if i < env.num_agents else "square",
                label=label(t, i),
            )
            for i in order
        ]
        lines = [
            Line(tuple(position[t, i]), tuple(position[t, env.num_agents + goal]), GREY)
            for i, goal in zip(seekers, goals[t], strict=True)
        ]
        scenes.append(Scene(low, high, tuple(markers), tuple(lines)))
    return scenes


def _camera(position: np.ndarray, margin: float, smallest: float) -> tuple[Point, Point]:
    """The corners of a view that holds all positions [..., 2]: at least ``smallest`` wide, and neither
    higher than wide, where a caption would not fit, nor a mere strip."""
    points = position.reshape((-1, 2))
    low, high = points.min(0) - margin, points.max(0) + margin
    width = max(smallest, *(high - low))
    extent = np.array([width, max(high[1] - low[1], 0.6 * width)])
    centre = (low + high) / 2
    return tuple(centre - extent / 2), tuple(centre + extent / 2)


def _pale(color: Color) -> Color:
    return tuple((c + 255) // 2 for c in color)


def _box(low: Point, high: Point) -> list[Line]:
    (left, bottom), (right, top) = low, high
    corners = [(left, bottom), (right, bottom), (right, top), (left, top)]
    return [Line(corners[i - 1], corners[i], GREY, bold=True) for i in range(4)]


def _shot(start: np.ndarray, end: np.ndarray, color: Color, bold: bool) -> Line:
    """Kept to its left, so that two units that attack each other give two lines."""
    x, y = (end - start) / max(float(np.linalg.norm(end - start)), 1e-6)
    aside = 0.1 * np.array([-y, x])
    return Line(tuple(start + aside), tuple(end + aside), color, bold)
