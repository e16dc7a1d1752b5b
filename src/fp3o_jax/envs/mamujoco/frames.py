"""What a robot looks like, drawn by MuJoCo without a screen."""

from __future__ import annotations

import importlib
import os
import platform
from collections.abc import Iterator
from typing import Any

import numpy as np

from fp3o_jax.config import ConfigError

WIDTH, HEIGHT = 480, 360


def frames(model: Any, qpos: np.ndarray) -> Iterator[np.ndarray]:
    """[H, W, 3] uint8 for each of the positions [T, nq] of an ``MjModel``, seen by a camera that follows it.

    Raises:
        ConfigError: there is nothing to draw with.
    """
    import mujoco

    context = _context()
    context.make_current()
    try:
        data, scene = mujoco.MjData(model), mujoco.MjvScene(model, maxgeom=2000)
        option, camera, view = mujoco.MjvOption(), _camera(model), mujoco.MjrRect(0, 0, WIDTH, HEIGHT)
        drawing = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100.value)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN.value, drawing)
        everything = mujoco.mjtCatBit.mjCAT_ALL.value
        for position in qpos:
            data.qpos[:] = position
            mujoco.mj_forward(model, data)
            mujoco.mjv_updateScene(model, data, option, None, camera, everything, scene)
            mujoco.mjr_render(view, scene, drawing)
            image = np.empty((HEIGHT, WIDTH, 3), np.uint8)
            mujoco.mjr_readPixels(image, None, view, drawing)
            yield image[::-1]
        drawing.free()
    finally:
        context.free()


def _camera(model: Any) -> Any:
    """Follows a robot that moves, as far away as it is long, from the side, or from above if it swims; looks
    at one that is fixed."""
    import mujoco

    camera, data = mujoco.MjvCamera(), mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    length = np.ptp(data.xpos[1:], axis=0).max()
    moving = model.body_dofnum[1] > 1
    camera.type = mujoco.mjtCamera.mjCAMERA_TRACKING if moving else mujoco.mjtCamera.mjCAMERA_FREE
    camera.trackbodyid = 1 if moving else -1
    camera.lookat[:] = data.xpos[1:].mean(0)
    camera.distance = max(1.3 * length, 4.0 if moving else 1.0)
    walks = moving and not model.opt.viscosity
    camera.azimuth, camera.elevation = 90.0, -20.0 if walks else -60.0
    return camera


def _context() -> Any:
    """A drawing surface without a window: what ``MUJOCO_GL`` says, else the first that there is."""
    chosen = os.environ.get("MUJOCO_GL", "").lower()
    offscreen = ("egl", "osmesa") if platform.system() == "Linux" else ("cgl", "glfw")
    failures = []
    for name in (chosen,) if chosen in ("egl", "osmesa", "glfw", "cgl") else offscreen:
        try:
            return importlib.import_module(f"mujoco.{name}").GLContext(WIDTH, HEIGHT)
        except Exception as error:  # they fail in as many ways as there are drivers
            failures.append(f"{name}: {type(error).__name__}: {error}")
    raise ConfigError(
        "MuJoCo can draw nothing here: install EGL (Debian: apt-get install libegl1 libgl1-mesa-dri) or "
        f"OSMesa (libosmesa6, with MUJOCO_GL=osmesa). Tried {'; '.join(failures)}"
    )
