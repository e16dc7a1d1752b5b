"""The robots as data: a model, what can be seen, rewards, ends and beginnings, as Gymnasium's v5 has them."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fp3o_jax.envs.mamujoco import models, views
from fp3o_jax.envs.mamujoco.robot import (
    ALL,
    Fields,
    Robot,
    Task,
    contact_forces,
    plain_features,
)


def clipped_speed(xp: Any, task: Task, d: Fields) -> dict[str, Any]:
    return {"qpos": d["qpos"], "qvel": xp.clip(d["qvel"], -10, 10)}


def both_speeds(xp: Any, task: Task, d: Fields) -> dict[str, Any]:
    """The whole observation has the clipped speed, MaMuJoCo's agents see it as it is."""
    return plain_features(xp, task, d) | {"clipped": xp.clip(d["qvel"], -10, 10)}


def felt_forces(xp: Any, task: Task, d: Fields) -> dict[str, Any]:
    return plain_features(xp, task, d) | {"cfrc_ext": contact_forces(xp, task, d)}


def felt_bodies(xp: Any, task: Task, d: Fields) -> dict[str, Any]:
    felt = ("cinert", "cvel", "qfrc_actuator", "cfrc_ext")
    return plain_features(xp, task, d) | {name: d[name] for name in felt}


def arm(xp: Any, task: Task, d: Fields) -> dict[str, Any]:
    """Of the reacher."""
    angles = d["qpos"][..., :2]
    way = _between(task, d, "fingertip", "target")
    seen = {"cos": xp.cos(angles), "sin": xp.sin(angles), "fingertip_dist": way}
    return plain_features(xp, task, d) | seen


def tip_object_goal(xp: Any, task: Task, d: Fields) -> dict[str, Any]:
    places = {name: d["xpos"][..., task.model.body(name).id, :] for name in ("tips_arm", "object", "goal")}
    return plain_features(xp, task, d) | places


def tendon(xp: Any, task: Task, d: Fields) -> dict[str, Any]:
    """Two cheetahs; of the tendon's Jacobian what their four sliders do to it.

    MuJoCo in C holds what is not zero alone, MJX all columns.
    """
    jacobian, columns = d["ten_J"].reshape((*d["qpos"].shape[:-1], -1)), np.array([0, 1, 9, 10])
    if jacobian.shape[-1] != task.model.nv:
        columns = np.searchsorted(task.model.ten_J_colind, columns)
    felt = {name: d[name] for name in ("ten_length", "ten_velocity")}
    return plain_features(xp, task, d) | {"ten_J": jacobian[..., columns]} | felt


def torso(xp: Any, task: Task, d: Fields) -> Any:
    return d["xpos"][..., 1, :1]


def mass_center(xp: Any, task: Task, d: Fields) -> Any:
    mass = np.asarray(task.model.body_mass)
    return (xp.einsum("b,...bj->...j", mass, d["xipos"]) / mass.sum())[..., :1]


def both_fronts(xp: Any, task: Task, d: Fields) -> Any:
    """Of two cheetahs."""
    return d["qpos"][..., 0:10:9]


def standing_up(xp: Any, task: Task, velocity: Any, d: Fields, ctrl: Any, healthy: Any) -> Any:
    """Height over a single step of the physics, as Gymnasium has it; less effort and impact."""
    o = task.options
    height = (d["qpos"][..., 2] - 0) / task.model.opt.timestep
    effort = o["ctrl_cost_weight"] * xp.square(ctrl).sum(-1)
    forces = d["cfrc_ext"]
    impact = o["impact_cost_weight"] * xp.square(forces).reshape((*forces.shape[:-2], -1)).sum(-1)
    return height - effort - xp.clip(impact, *o["impact_cost_range"]) + 1


def reaching(xp: Any, task: Task, velocity: Any, d: Fields, ctrl: Any, healthy: Any) -> Any:
    distance = -_norm(xp, _between(task, d, "fingertip", "target")) * task.options["reward_dist_weight"]
    return distance + -xp.square(ctrl).sum(-1) * task.options["reward_control_weight"]


def pushing(xp: Any, task: Task, velocity: Any, d: Fields, ctrl: Any, healthy: Any) -> Any:
    o = task.options
    near = -_norm(xp, _between(task, d, "object", "tips_arm")) * o["reward_near_weight"]
    distance = -_norm(xp, _between(task, d, "object", "goal")) * o["reward_dist_weight"]
    return distance + -xp.square(ctrl).sum(-1) * o["reward_control_weight"] + near


def running_in_pairs(xp: Any, task: Task, velocity: Any, d: Fields, ctrl: Any, healthy: Any) -> Any:
    """The mean of two cheetahs' rewards."""
    o, half = task.options, ctrl.shape[-1] // 2
    gain = o["forward_reward_weight"] * (velocity[..., 0] + velocity[..., 1]) / 2.0
    first, second = (
        o["ctrl_cost_weight"] * xp.square(part).sum(-1) for part in (ctrl[..., :half], ctrl[..., half:])
    )
    return gain - (first + second) / 2.0


def low_and_straight(xp: Any, task: Task, d: Fields) -> Any:
    """Hopper and walker: height, angle and, of the hopper, the rest of the state."""
    o, qpos = task.options, d["qpos"]
    upright = _inside(qpos[..., 1], o["healthy_z_range"]) & _inside(qpos[..., 2], o["healthy_angle_range"])
    if "healthy_state_range" not in o:
        return upright
    rest = xp.concatenate([qpos[..., 2:], d["qvel"]], axis=-1)
    return _inside(rest, o["healthy_state_range"]).all(-1) & upright


def at_height(xp: Any, task: Task, d: Fields) -> Any:
    """The ant may be at the bounds themselves."""
    low, high = task.options["healthy_z_range"]
    z = d["qpos"][..., 2]
    finite = xp.isfinite(d["qpos"]).all(-1) & xp.isfinite(d["qvel"]).all(-1)
    return finite & (low <= z) & (z <= high)


def on_its_feet(xp: Any, task: Task, d: Fields) -> Any:
    return _inside(d["qpos"][..., 2], task.options["healthy_z_range"])


def normal_start(key: jax.Array, task: Task) -> tuple[jax.Array, jax.Array]:
    """Uniform noise on the position, normal noise on the velocity."""
    scale, keys = task.options["reset_noise_scale"], jax.random.split(key)
    return (
        jax.random.uniform(keys[0], (task.model.nq,), minval=-scale, maxval=scale),
        scale * jax.random.normal(keys[1], (task.model.nv,)),
    )


def reacher_start(key: jax.Array, task: Task) -> tuple[jax.Array, jax.Array]:
    """Some noise, and a target anywhere in a disc around the shoulder."""
    keys = jax.random.split(key, 3)
    qpos = jax.random.uniform(keys[0], (4,), minval=-0.1, maxval=0.1)
    qvel = jax.random.uniform(keys[1], (4,), minval=-0.005, maxval=0.005)
    u = jax.random.uniform(keys[2], (2,))
    angle = 2 * jnp.pi * u[1]
    target = 0.2 * jnp.sqrt(u[0]) * jnp.stack([jnp.cos(angle), jnp.sin(angle)])
    return qpos.at[2:].set(target - task.model.qpos0[2:].astype(np.float32)), qvel.at[2:].set(0.0)


def pusher_start(key: jax.Array, task: Task) -> tuple[jax.Array, jax.Array]:
    """The object anywhere on the left that is not at the goal; of 64 places the first that is not."""
    key_place, key_speed = jax.random.split(key)
    places = jax.random.uniform(
        key_place, (64, 2), minval=jnp.array([-0.3, -0.2]), maxval=jnp.array([0.0, 0.2])
    )
    first = jnp.argmax(jnp.linalg.norm(places, axis=-1) > 0.17)
    qvel = jax.random.uniform(key_speed, (11,), minval=-0.005, maxval=0.005)
    return jnp.zeros(11).at[7:9].set(places[first]), qvel.at[7:].set(0.0)


def _between(task: Task, d: Fields, body: str, other: str) -> Any:
    there, here = (d["xpos"][..., task.model.body(name).id, :] for name in (body, other))
    return there - here


def _inside(x: Any, bounds: tuple[float, float]) -> Any:
    return (bounds[0] < x) & (x < bounds[1])


def _norm(xp: Any, x: Any) -> Any:
    return xp.sqrt(xp.square(x).sum(-1))


WITHOUT_X = (("qpos", slice(1, None)), ("qvel", ALL))
WITHOUT_XY = (("qpos", slice(2, None)), ("qvel", ALL))
UPRIGHT = {
    "forward_reward_weight": 1.0,
    "ctrl_cost_weight": 1e-3,
    "healthy_reward": 1.0,
    "terminate_when_unhealthy": True,
    "reset_noise_scale": 5e-3,
}
ANT = {
    "forward_reward_weight": 1.0,
    "ctrl_cost_weight": 0.5,
    "contact_cost_weight": 5e-4,
    "healthy_reward": 1.0,
    "terminate_when_unhealthy": True,
    "healthy_z_range": (0.2, 1.0),
    "contact_force_range": (-1.0, 1.0),
    "reset_noise_scale": 0.1,
}
CHEETAH = {"forward_reward_weight": 1.0, "ctrl_cost_weight": 0.1, "reset_noise_scale": 0.1}
SWIMMER = {"forward_reward_weight": 1.0, "ctrl_cost_weight": 1e-4, "reset_noise_scale": 0.1}
FORCES = {
    "whole": (*WITHOUT_XY, ("cfrc_ext", slice(6, None))),
    "options": ANT,
    "derived": ("xpos", "cfrc_ext"),
    "features": felt_forces,
    "position": torso,
    "healthy": at_height,
    "start": normal_start,
    "local": (("qpos", "qvel", "cfrc_ext"), ("qpos",)),
}
BODY = {
    "graph": views.humanoid,
    "whole": (
        *WITHOUT_XY,
        ("cinert", slice(10, None)),
        ("cvel", slice(6, None)),
        ("qfrc_actuator", slice(6, None)),
        ("cfrc_ext", slice(6, None)),
    ),
    "partitions": {
        "9|8": "abdomen_x abdomen_y abdomen_z right_shoulder1 right_shoulder2 right_elbow left_shoulder1 "
        "left_shoulder2 left_elbow | right_hip_x right_hip_y right_hip_z right_knee left_hip_x left_hip_y "
        "left_hip_z left_knee"
    },
    "derived": ("xipos", "cinert", "cvel", "qfrc_actuator", "cfrc_ext"),
    "features": felt_bodies,
    "local": (("qpos", "qvel", "cinert", "cvel", "qfrc_actuator", "cfrc_ext"), ("qpos",)),
}

ROBOTS: dict[str, Robot] = {
    "halfcheetah": Robot(
        "HalfCheetah",
        partial(models.from_file, "half_cheetah.xml"),
        views.planar,
        WITHOUT_X,
        {"2x3": "bthigh bshin bfoot | fthigh fshin ffoot", "6x1": "bthigh|bshin|bfoot|fthigh|fshin|ffoot"},
        CHEETAH,
        start=normal_start,
    ),
    "ant": Robot(
        "Ant",
        partial(models.from_file, "ant.xml"),
        views.ant,
        partitions={
            "2x4": "hip_1 ankle_1 hip_2 ankle_2 | hip_3 ankle_3 hip_4 ankle_4",
            "2x4d": "hip_1 ankle_1 hip_4 ankle_4 | hip_2 ankle_2 hip_3 ankle_3",
            "4x2": "hip_1 ankle_1 | hip_2 ankle_2 | hip_3 ankle_3 | hip_4 ankle_4",
        },
        **FORCES,
    ),
    "hopper": Robot(
        "Hopper",
        partial(models.from_file, "hopper.xml"),
        views.planar,
        WITHOUT_X,
        {"3x1": "thigh_joint | leg_joint | foot_joint"},
        UPRIGHT
        | {
            "healthy_state_range": (-100.0, 100.0),
            "healthy_z_range": (0.7, float("inf")),
            "healthy_angle_range": (-0.2, 0.2),
        },
        frame_skip=4,
        features=clipped_speed,
        healthy=low_and_straight,
    ),
    "walker2d": Robot(
        "Walker2d",
        partial(models.from_file, "walker2d_v5.xml"),
        views.planar,
        (("qpos", slice(1, None)), ("clipped", ALL)),
        {"2x3": "foot_joint leg_joint thigh_joint | foot_left_joint leg_left_joint thigh_left_joint"},
        UPRIGHT | {"healthy_z_range": (0.8, 2.0), "healthy_angle_range": (-1.0, 1.0)},
        frame_skip=4,
        features=both_speeds,
        healthy=low_and_straight,
    ),
    "humanoid": Robot(
        "Humanoid",
        partial(models.from_file, "humanoid.xml"),
        options={
            "forward_reward_weight": 1.25,
            "ctrl_cost_weight": 0.1,
            "contact_cost_weight": 5e-7,
            "contact_cost_range": (-float("inf"), 10.0),
            "healthy_reward": 5.0,
            "terminate_when_unhealthy": True,
            "healthy_z_range": (1.0, 2.0),
            "reset_noise_scale": 1e-2,
        },
        position=mass_center,
        healthy=on_its_feet,
        **BODY,
    ),
    "humanoidstandup": Robot(
        "HumanoidStandup",
        partial(models.from_file, "humanoidstandup.xml"),
        options={
            "ctrl_cost_weight": 0.1,
            "impact_cost_weight": 0.5e-6,
            "impact_cost_range": (-float("inf"), 10.0),
            "reset_noise_scale": 1e-2,
        },
        reward=standing_up,
        **BODY,
    ),
    "swimmer": Robot(
        "Swimmer",
        partial(models.from_file, "swimmer.xml"),
        views.swimmer,
        WITHOUT_XY,
        {"2x1": "motor1_rot | motor2_rot"},
        SWIMMER,
        frame_skip=4,
    ),
    "reacher": Robot(
        "Reacher",
        partial(models.from_file, "reacher.xml"),
        views.reacher,
        (
            *(("cos", ALL), ("sin", ALL), ("qpos", slice(2, None)), ("qvel", slice(0, 2))),
            ("fingertip_dist", slice(0, 2)),
        ),
        {"2x1": "joint0 | joint1"},
        {"reward_dist_weight": 1.0, "reward_control_weight": 1.0},
        frame_skip=2,
        time_limit=50,
        derived=("xpos",),
        features=arm,
        reward=reaching,
        start=reacher_start,
        local=(("qpos", "qvel", "fingertip_dist"), ("qpos",)),
    ),
    "pusher": Robot(
        "Pusher",
        partial(models.from_file, "pusher_v5.xml"),
        views.pusher,
        (
            *(("qpos", slice(0, 7)), ("qvel", slice(0, 7))),
            *(("tips_arm", ALL), ("object", ALL), ("goal", ALL)),
        ),
        {
            "3p": "r_shoulder_pan_joint r_shoulder_lift_joint r_upper_arm_roll_joint | r_elbow_flex_joint | "
            "r_forearm_roll_joint r_wrist_flex_joint r_wrist_roll_joint"
        },
        {"reward_near_weight": 0.5, "reward_dist_weight": 1.0, "reward_control_weight": 0.1},
        time_limit=100,
        derived=("xpos",),
        features=tip_object_goal,
        reward=pushing,
        start=pusher_start,
    ),
    "manysegmentswimmer": Robot(
        "ManySegmentSwimmer",
        models.many_segment_swimmer,
        views.many_segment_swimmer,
        WITHOUT_XY,
        options=SWIMMER,
        frame_skip=4,
        segments=views.swimmer_segments,
    ),
    "manysegmentant": Robot(
        "ManySegmentAnt",
        models.many_segment_ant,
        views.many_segment_ant,
        segments=views.ant_segments,
        **FORCES,
    ),
    "coupledhalfcheetah": Robot(
        "CoupledHalfCheetah",
        models.coupled_half_cheetah,
        views.coupled_half_cheetah,
        (
            *(("qpos", slice(1, 9)), ("qpos", slice(10, 18)), ("qvel", ALL)),
            *(("ten_J", ALL), ("ten_length", ALL), ("ten_velocity", ALL)),
        ),
        {"1p1": "bthigh0 bshin0 bfoot0 fthigh0 fshin0 ffoot0 | bthigh1 bshin1 bfoot1 fthigh1 fshin1 ffoot1"},
        CHEETAH,
        derived=("ten_J", "ten_length", "ten_velocity"),
        features=tendon,
        position=both_fronts,
        reward=running_in_pairs,
        start=normal_start,
        local=(("qpos", "qvel", "ten_J", "ten_length", "ten_velocity"), ("qpos",)),
    ),
}
