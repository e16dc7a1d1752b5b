"""Who sees what of a robot: its joints as a graph, and what lies within a distance of an agent's own.

Joints are neighbours where no other actuated joint lies between them: both ends of a limb, all that meet at a
torso. That is read from the model's kinematic tree.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

#: What is seen of an array of a robot's features: its name, and which of its (flattened) entries.
Seen = tuple[str, tuple[int, ...]]
#: Of features, by name.
Shapes = Mapping[str, tuple[int, ...]]


@dataclasses.dataclass(frozen=True)
class Node:
    """A joint, or another thing that can be seen.

    Attributes:
        label: nodes at the same distance are seen in the order of their labels.
        qpos, qvel: its place in the position and in the velocity; None if it has none.
        bodies: whose ``cinert``, ``cvel`` and ``cfrc_ext`` are seen with it.
        instead: category -> what is seen in place of what the category stands for.
    """

    label: str
    qpos: int | None = None
    qvel: int | None = None
    bodies: tuple[int, ...] = ()
    instead: Mapping[str, tuple[Seen, ...]] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Graph:
    """What there is to be seen.

    Attributes:
        nodes: one for each actuator, in their order; after them others that are seen and not moved.
        edges: sets of nodes, each a neighbour of all others in the set.
        everywhere: nodes that everyone sees, after all others.
    """

    nodes: tuple[Node, ...]
    edges: tuple[frozenset[int], ...]
    everywhere: tuple[Node, ...]


def joints(model: Any, label: Callable[[str], str] = str) -> tuple[Node, ...]:
    """The joints that the actuators of an ``MjModel`` move, in the order of the actuators."""
    nodes = []
    for joint in model.actuator_trnid[:, 0]:
        name = label(model.joint(joint).name)
        nodes.append(Node(name, int(model.jnt_qposadr[joint]), int(model.jnt_dofadr[joint])))
    return tuple(nodes)


def tree_edges(model: Any) -> tuple[frozenset[int], ...]:
    """Which actuated joints meet, as an ``MjModel``'s tree has them; robots apart in the world do not."""
    moved: dict[int, set[int]] = {}
    for actuator, joint in enumerate(model.actuator_trnid[:, 0]):
        moved.setdefault(int(model.jnt_bodyid[joint]), set()).add(actuator)
    meeting = {body: set(own) for body, own in moved.items()}
    for body, own in moved.items():
        at = body
        while model.body_parentid[at] != 0:
            at = int(model.body_parentid[at])
            if at in moved:
                break
        if at != body:
            meeting.setdefault(at, set()).update(own)
    return tuple(frozenset(nodes) for nodes in meeting.values() if len(nodes) > 1)


def within(graph: Graph, own: Iterable[int], distance: int) -> list[list[int]]:
    """Nodes at distances 0, 1, ... from an agent's own, each list in the order of labels."""
    known, latest = set(own), set(own)
    levels = [latest]
    for _ in range(distance):
        latest = set().union(*(edge for edge in graph.edges if edge & latest)) - known
        known |= latest
        levels.append(latest)
    return [sorted(level, key=lambda i: (graph.nodes[i].label, i)) for level in levels]


def observed(
    graph: Graph,
    own: Sequence[int],
    distance: int,
    local: Sequence[Sequence[str]],
    everywhere: Sequence[str],
    shapes: Shapes,
) -> list[Seen]:
    """What an agent sees, in MaMuJoCo's order.

    Args:
        graph: of the robot.
        own: the agent's actuators.
        distance: how far it sees, ``agent_obsk``.
        local: categories that are seen of its own joints, of their neighbours, ...; the last holds beyond.
        everywhere: categories that are seen of ``graph.everywhere``.
        shapes: of the robot's features, by name.
    """
    seen: list[Seen] = []
    once: set[tuple[str, int]] = set()
    for k, level in enumerate(within(graph, own, distance)):
        for node in level:
            for category in local[min(k, len(local) - 1)]:
                seen += _of_node(graph.nodes[node], category, shapes, once)
    once = set()
    for category in everywhere:
        for node in graph.everywhere:
            seen += _of_node(node, category, shapes, once)
    return seen


def _of_node(node: Node, category: str, shapes: Shapes, once: set[tuple[str, int]]) -> list[Seen]:
    """What is seen of a node; of a body what an agent has not seen yet, which ``once`` remembers."""
    if category in node.instead:
        return list(node.instead[category])
    if category == "qpos":
        return [] if node.qpos is None else [("qpos", (node.qpos,))]
    if category in ("qvel", "qfrc_actuator"):
        return [] if node.qvel is None else [(category, (node.qvel,))]
    new = [body for body in node.bodies if (category, body) not in once and category in shapes]
    once |= {(category, body) for body in new}
    width = shapes[category][-1] if new else 0
    return [(category, tuple(range(body * width, (body + 1) * width))) for body in new]


def places(seen: Iterable[Seen], shapes: Shapes) -> np.ndarray:
    """Where what is seen stands among all features side by side."""
    sizes = [int(np.prod(shape)) for shape in shapes.values()]
    starts = dict(zip(shapes, np.cumsum([0, *sizes]), strict=False))
    return np.array([starts[name] + i for name, indices in seen for i in indices], np.int32)
