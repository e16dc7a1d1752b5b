"""What there is to be seen of each robot, and into which agents it is divided, as MaMuJoCo has it.

Where MaMuJoCo's tables are not what the model says, they are followed, so that a policy can play there and
here, and it is said.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from typing import Any

from fp3o_jax.config import ConfigError, unknown
from fp3o_jax.envs.mamujoco.graph import Graph, Node, Seen, joints, tree_edges

Partition = tuple[tuple[int, ...], ...]

#: A root that moves in a plane, whose place along it nobody sees; one that is free.
PLANAR = (Node("root_x", None, 0), Node("root_z", 1, 1), Node("root_y", 2, 2))
FREE = (Node("root", instead={"qpos": (("qpos", (2, 3, 4, 5, 6)),), "qvel": (("qvel", tuple(range(6))),)}),)


def planar(model: Any) -> Graph:
    """Half-cheetah, hopper and walker."""
    return Graph(joints(model), tree_edges(model), PLANAR)


def ant(model: Any) -> Graph:
    """Forces are felt at a hip by torso and leg, at an ankle by all of the leg."""

    def feeling(node: Node, joint: int) -> Node:
        ankle = int(model.jnt_bodyid[joint])
        leg = int(model.body_parentid[ankle])
        above = int(model.body_parentid[leg])
        return dataclasses.replace(
            node, bodies=(above, leg) + (ankle,) * model.joint(joint).name.startswith("ankle")
        )

    moved = zip(joints(model), model.actuator_trnid[:, 0], strict=True)
    return Graph(tuple(feeling(*pair) for pair in moved), tree_edges(model), FREE)


def many_segment_ant(model: Any) -> Graph:
    """As MaMuJoCo has it: the joints of a segment are swapped, places are counted from the wrong end, and a
    segment sees the hips of the one before, which does not see them.

    So MaMuJoCo's ``hip1`` moves the second hip, and all that are not in the last segment show ``qpos`` and
    ``qvel`` at places that are not theirs, the first ones at the root's.
    """
    segments = model.nu // 4
    nodes, edges, shadows = [], [], []
    for segment in range(segments):
        first, torso = 4 * segment, 1 + 7 * segment
        place = 4 * (segments - 1 - segment) - 4
        for k, name in ((2, "hip2"), (3, "ankle2"), (0, "hip1"), (1, "ankle1")):
            leg = torso + (1 if k < 2 else 4)
            bodies = (torso, leg) if k % 2 == 0 else (leg, leg + 1, leg + 2)
            label = f"{name}_{segment}"
            nodes.append(Node(label, (place + k) % model.nq, (place + k) % model.nv, bodies))
        hips = {first, first + 2}
        edges += [{first, first + 1}, {first + 2, first + 3}, hips]
        if segment:
            seen = {4 * segments + len(shadows), 4 * segments + len(shadows) + 1}
            shadows += [nodes[first - 4], nodes[first - 2]]
            edges.append(hips | seen)
    return Graph((*nodes, *shadows), tuple(map(frozenset, edges)), FREE)


def humanoid(model: Any) -> Graph:
    """As MaMuJoCo has it: ``abdomen_y`` and ``abdomen_z`` each show the other's place and speed; hips are
    neighbours of all three joints of the abdomen and not of each other, and so are shoulders."""
    nodes = {node.label: node for node in joints(model)}
    y, z = nodes["abdomen_y"], nodes["abdomen_z"]
    nodes["abdomen_y"] = dataclasses.replace(y, qpos=z.qpos, qvel=z.qvel)
    nodes["abdomen_z"] = dataclasses.replace(z, qpos=y.qpos, qvel=y.qvel)

    felt = {"abdomen_[yz]": "torso lwaist pelvis", "abdomen_x": "pelvis right_thigh left_thigh"}
    for side in ("right", "left"):
        felt[f"{side}_hip_."] = f"{side}_thigh {side}_shin"
        felt[f"{side}_knee"] = f"{side}_shin {side}_foot"
        felt[f"{side}_shoulder."] = f"torso {side}_upper_arm {side}_lower_arm"
        felt[f"{side}_elbow"] = f"{side}_lower_arm"
    order = list(nodes)

    def named(pattern: str) -> frozenset[int]:
        return frozenset(i for i, name in enumerate(order) if re.fullmatch(pattern, name))

    for pattern, bodies in felt.items():
        for i in named(pattern):
            felt_by = tuple(int(model.body(body).id) for body in bodies.split())
            nodes[order[i]] = dataclasses.replace(nodes[order[i]], bodies=felt_by)
    meeting = ["abdomen_."]
    for side in ("right", "left"):
        meeting += [
            f"{side}_(hip_.|knee)",
            f"{side}_(shoulder.|elbow)",
            f"abdomen_.|{side}_hip_.",
            f"abdomen_.|{side}_shoulder.",
        ]
    return Graph(tuple(nodes.values()), tuple(map(named, meeting)), FREE)


def swimmer(model: Any) -> Graph:
    """As MaMuJoCo has it: each joint shows the speed of the root along an axis as well."""
    first, second = joints(model)
    first = dataclasses.replace(first, instead={"qvel": (("qvel", (0, 3)),)})
    second = dataclasses.replace(second, instead={"qvel": (("qvel", (1, 4)),)})
    return Graph((first, second), tree_edges(model), (Node("free_body_rot", 2, 2),))


def many_segment_swimmer(model: Any) -> Graph:
    """Nobody sees how the swimmer lies: MaMuJoCo has no nodes that all see."""
    return Graph(joints(model), tree_edges(model), ())


def reacher(model: Any) -> Graph:
    """Angles are seen as their sine and cosine; the second joint knows the way to the target."""

    def angle(i: int) -> tuple[Seen, ...]:
        return (("sin", (i,)), ("cos", (i,)))

    first, second = joints(model)
    first = dataclasses.replace(first, instead={"qpos": angle(0)})
    tip = (("fingertip_dist", (0, 1, 2)),)
    second = dataclasses.replace(second, instead={"qpos": angle(1), "fingertip_dist": tip})
    return Graph((first, second), tree_edges(model), (Node("target_x", 2), Node("target_y", 3)))


def pusher(model: Any) -> Graph:
    """All see where tip, object and goal are.

    MaMuJoCo calls the two joints of the shoulder ``r_wrist_roll_joint``, and an agent sees its joints in the
    order of their names: they stand after all others. Which of the two is first differs there from process
    to process; here it is the lower one.
    """

    def label(name: str) -> str:
        return "r_wrist_roll_joint" if name.startswith("r_shoulder") else name

    places = ("tips_arm", "object", "goal")
    everywhere = tuple(Node(name, instead={"qpos": ((name, (0, 1, 2)),)}) for name in places)
    return Graph(joints(model, label), tree_edges(model), everywhere)


def coupled_half_cheetah(model: Any) -> Graph:
    """As MaMuJoCo has it: both show the joints of the second cheetah; the thighs behind feel the tendon."""
    own = joints(model)
    tendon = {"ten_J": (("ten_J", (0, 1, 2, 3)),), "ten_length": (("ten_length", (0,)),)}
    tendon["ten_velocity"] = (("ten_velocity", (0,)),)
    nodes = tuple(
        dataclasses.replace(
            node,
            qpos=own[i % 6 + 6].qpos,
            qvel=own[i % 6 + 6].qvel,
            instead=tendon if i % 6 == 0 else {},
        )
        for i, node in enumerate(own)
    )
    roots = [Node("root_x0", None, 0), Node("root_y0", 2, 2), Node("root_z0", 1, 1)]
    roots += [Node("root_x1", None, 9), Node("root_y1", 11, 11), Node("root_z1", 10, 10)]
    return Graph(nodes, tree_edges(model), tuple(roots))


def swimmer_segments(first: int, count: int) -> tuple[int, ...]:
    """The actuators of an agent of the many-segment swimmer, from its first segment on."""
    return tuple(range(first, first + count))


def ant_segments(first: int, count: int) -> tuple[int, ...]:
    """Likewise of the many-segment ant, in MaMuJoCo's order."""
    return tuple(4 * s + k for s in range(first, first + count) for k in (2, 3, 0, 1))


def segments_of(name: str, task: str) -> tuple[int, int]:
    """Agents and segments of each from a name such as ``8x2``.

    Raises:
        ConfigError: it is no such name.
    """
    match = re.fullmatch(r"([1-9]\d{0,2})x([1-9]\d{0,2})", name)
    if match is None or int(match[1]) * int(match[2]) < 2:
        raise ConfigError(
            f"env={task!r}: the robot is divided as AGENTSxSEGMENTS, such as 8x2, two segments or more in all"
        )
    return int(match[1]), int(match[2])


def parsed(partition: str | Sequence[Any], names: Sequence[str]) -> Partition:
    """A partition of one's own.

    Args:
        partition: for each agent its joints, by name or by the number of their actuator: a list of lists, or
            a text in which agents are divided by ``|`` and joints by spaces or commas.
        names: of the actuators' joints.

    Raises:
        ConfigError: a joint that is none, is given twice, or is missing.
    """
    if isinstance(partition, str):
        partition = [re.split(r"[\s,]+", agent.strip()) for agent in partition.split("|")]
    number = {name: i for i, name in enumerate(names)} | {str(i): i for i in range(len(names))}
    agents: list[tuple[int, ...]] = []
    for agent in partition:
        joints_of_it = [agent] if isinstance(agent, (str, int)) else list(agent)
        for joint in joints_of_it:
            if str(joint) not in number:
                raise unknown("env_kwargs partition: joint", joint, number)
        agents.append(tuple(number[str(joint)] for joint in joints_of_it))
    given = sorted(joint for agent in agents for joint in agent)
    if given != list(range(len(names))) or not all(agents):
        twice = sorted({names[i] for i in given if given.count(i) > 1})
        missing = [name for i, name in enumerate(names) if i not in given]
        raise ConfigError(
            f"env_kwargs partition={partition!r} must give each joint to one agent, and each agent a joint: "
            f"missing are {', '.join(missing) or 'none'}, given twice {', '.join(twice) or 'none'}"
        )
    return tuple(agents)
