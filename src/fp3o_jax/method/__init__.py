"""The papers' method: schedules, losses, advantages, rollout and update."""
