"""The models: Gymnasium's files as they are installed, and robots put together of their parts."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from fp3o_jax.config import ConfigError


def asset(name: str) -> str:
    """The path of one of Gymnasium's models.

    Raises:
        ConfigError: Gymnasium is not installed, or has no such model.
    """
    spec = importlib.util.find_spec("gymnasium")
    path = Path(spec.origin).parent / "envs" / "mujoco" / "assets" / name if spec and spec.origin else None
    if path is None or not path.exists():
        raise ConfigError(f"mamujoco needs {name} of Gymnasium: pip install 'gymnasium>=1.2'")
    return str(path)


def from_file(name: str) -> Any:
    """The ``MjModel`` of one of Gymnasium's files."""
    import mujoco

    return mujoco.MjModel.from_xml_path(asset(name))


def many_segment_swimmer(segments: int) -> Any:
    """A swimmer of ``segments`` moved joints: the torso, then as many links, every second turned round."""
    import mujoco

    spec = mujoco.MjSpec.from_file(asset("swimmer.xml"))
    body = spec.body("torso")
    for actuator in list(spec.actuators):
        spec.delete(actuator)
    spec.delete(spec.body("mid"))
    for i in range(segments):
        body = body.add_body(name=f"link{i}", pos=(0.5 if i == 0 else -1, 0, 0))
        body.add_geom(
            type=mujoco.mjtGeom.mjGEOM_CAPSULE,
            fromto=(0, 0, 0, -1, 0, 0),
            size=(0.1, 0, 0),
            density=1000,
        )
        turned = 0 < i < segments - 1 and i % 2 == 0
        body.add_joint(
            name=f"rot{i}",
            type=mujoco.mjtJoint.mjJNT_HINGE,
            axis=(0, 0, -1 if turned else 1),
            limited=mujoco.mjtLimited.mjLIMITED_TRUE,
            range=(-100, 100),
        )
        _motor(spec, f"rot{i}", 150)
    return spec.compile()


#: Of an ant's segment its two legs: where they are attached, which way they point, and the ankle's axis and
#: range. The head has its legs in front, all others at the sides.
_HEAD = (((0.2, 0.2), (0.2, 0.2), (-1, 1), (30, 70)), ((0.2, -0.2), (0.2, -0.2), (1, 1), (30, 70)))
_TAIL = (((0.0, 0.2), (-0.2, 0.2), (1, 1), (-70, -30)), ((0.0, -0.2), (-0.2, -0.2), (-1, 1), (-70, -30)))


def many_segment_ant(segments: int) -> Any:
    """An ant of ``segments`` stiffly joined segments of two legs each."""
    import mujoco

    spec = mujoco.MjSpec.from_file(asset("ant.xml"))
    torso = spec.body("torso")
    for actuator in list(spec.actuators):
        spec.delete(actuator)
    for leg in list(torso.bodies):
        spec.delete(leg)
    spec.delete(spec.geom("torso_geom"))
    for i in range(segments):
        if i:
            torso = torso.add_body(name=f"torso_{i}", pos=(-1, 0, 0))
            _capsule(torso, (1, 0, 0), (0, 0, 0), 0.1, density=100)
        for side, (root, out, axis, bounds) in enumerate(_HEAD if i == 0 else _TAIL, start=1):
            leg = torso.add_body(name=f"leg{side}_{i}")
            _capsule(leg, (0, 0, 0), (*root, 0), 0.08)
            hip = leg.add_body(name=f"hip{side}_{i}", pos=(*root, 0))
            hip.add_joint(name=f"hip{side}_{i}", axis=(0, 0, 1), range=(-30, 30))
            _capsule(hip, (0, 0, 0), (*out, 0), 0.08)
            ankle = hip.add_body(name=f"ankle{side}_{i}", pos=(*out, 0))
            ankle.add_joint(name=f"ankle{side}_{i}", axis=(*axis, 0), range=bounds)
            _capsule(ankle, (0, 0, 0), (2 * out[0], 2 * out[1], 0), 0.08)
            for joint in ("hip", "ankle"):
                _motor(spec, f"{joint}{side}_{i}", 150)
    return spec.compile()


def coupled_half_cheetah() -> Any:
    """Two half-cheetahs side by side, of the mass of one, with an elastic tendon between their torsos."""
    import mujoco

    spec = mujoco.MjSpec.from_file(asset("half_cheetah.xml"))
    spec.delete(spec.body("torso"))
    for number, side in enumerate((-1, 1)):
        cheetah = mujoco.MjSpec.from_file(asset("half_cheetah.xml"))
        for unused in (*cheetah.materials, *cheetah.textures):
            cheetah.delete(unused)
        body = cheetah.body("torso")
        body.pos = (0, side, 0.7)
        body.add_site(name="t", size=(0.1, 0, 0))
        spec.worldbody.add_frame().attach_body(body, "", str(number))
    tendon = spec.add_tendon(
        name="tendon",
        limited=mujoco.mjtLimited.mjLIMITED_TRUE,
        range=(1.5, 3.5),
        stiffness=0.1,
        width=0.05,
        rgba=(0.95, 0.3, 0.3, 1),
    )
    for number in range(2):
        tendon.wrap_site(f"t{number}")
    return spec.compile()


def _capsule(body: Any, start: tuple[float, ...], end: tuple[float, ...], radius: float, **more: Any) -> None:
    import mujoco

    capsule = mujoco.mjtGeom.mjGEOM_CAPSULE
    body.add_geom(type=capsule, fromto=(*start, *end), size=(radius, 0, 0), **more)


def _motor(spec: Any, joint: str, gear: float) -> None:
    import mujoco

    motor = spec.add_actuator(target=joint, trntype=mujoco.mjtTrn.mjTRN_JOINT)
    motor.set_to_motor()
    motor.gear[0] = gear
    motor.ctrllimited, motor.ctrlrange = mujoco.mjtLimited.mjLIMITED_TRUE, (-1, 1)
