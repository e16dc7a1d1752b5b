"""Multi-agent MuJoCo: Gymnasium's robots, whose joints are divided among agents as MaMuJoCo has it.

MuJoCo itself is imported when a robot is made.
"""

from fp3o_jax.envs.mamujoco.make import TASKS, make

__all__ = ["TASKS", "make"]
