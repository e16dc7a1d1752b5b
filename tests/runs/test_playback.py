"""Recording one episode, and showing it."""

import base64
import importlib.util
import json
import re
import zlib

import av
import jax
import numpy as np
import pytest
from PIL import Image

from finite import assert_allclose
from fp3o_jax import Config, ConfigError, make_train
from fp3o_jax.envs.scenes import Marker, Scene
from fp3o_jax.evaluation import make_evaluate, record
from fp3o_jax.runs import playback


def make(env, **settings):
    """A trainer, and freshly initialised parameters."""
    trainer = make_train(Config(env=env, num_envs=2, rollout_length=8, hidden_sizes=(16,), **settings))
    return trainer, trainer.networks.init(jax.random.key(0))


@pytest.fixture(scope="module")
def battle():
    trainer, params = make("smax/3m", recurrent=True, chunk_length=8)
    return trainer, params, record(trainer, params, jax.random.key(1), greedy=False)


def count(image, color):
    return int((np.asarray(image) == color).all(-1).sum())


def test_a_battle_is_the_one_that_evaluation_plays(battle):
    trainer, params, episode = battle
    results = jax.jit(make_evaluate(trainer, 1, greedy=False))(params, jax.random.key(1))
    assert episode.num_steps == results["episode_length"][0] > 5
    assert episode.outcomes.won[-1] == results["win_rate"][0]
    assert_allclose(episode.outcomes.reward.sum(), results["episode_return"][0], rtol=1e-5)
    assert episode.outcomes.done.tolist() == [False] * (episode.num_steps - 1) + [True]
    assert episode.actions.shape == (episode.num_steps, 3)
    assert {len(leaf) for leaf in jax.tree.leaves(episode.states)} == {episode.num_steps + 1}
    assert episode.states.state.step.tolist() == list(range(episode.num_steps + 1))


def test_a_battle_as_gif(battle, tmp_path):
    trainer, params, episode = battle
    key = jax.random.key(1)
    path = playback.render_policy(trainer, params, key=key, output=tmp_path / "new" / "battle", greedy=False)
    assert path == tmp_path / "new" / "battle.gif"
    with Image.open(path) as gif:
        assert gif.n_frames == episode.num_steps + 1
        assert gif.width == playback.SIZE
    assert path.stat().st_size < 500_000


def test_what_is_seen_of_a_battle(battle):
    trainer, _, episode = battle
    s = episode.states.state
    scenes = trainer.env.scenes(episode.states)
    assert not any(line.bold for line in scenes[0].lines[4:])  # behind the four walls
    shots = 0
    for t in range(1, len(scenes)):
        # Each shot of a marine takes 9 of health, and each unit's loss is drawn as so many bold lines to it.
        ends = [line.end for line in scenes[t].lines[4:] if line.bold]
        hits = np.zeros(6)
        for end in ends:
            hits[np.linalg.norm(s.unit_positions[t] - end, axis=-1).argmin()] += 1
        walled = ((s.unit_positions[t] <= 0) | (s.unit_positions[t] >= 32)).any(-1)
        expected = np.maximum(s.unit_health[t - 1] - 9 * hits, 0)
        assert_allclose(s.unit_health[t][~walled], expected[~walled])
        shots += len(ends)

        crosses = sum(marker.shape == "cross" for marker in scenes[t].markers)
        assert crosses == (~s.unit_alive[t]).sum()
        bars = sorted(marker.bar for marker in scenes[t].markers if marker.shape != "cross")
        assert_allclose(bars, np.sort(s.unit_health[t][s.unit_alive[t]]) / 45)
    assert shots > 5
    assert {(m.shape, m.label) for m in scenes[0].markers} == {("disc", "m"), ("square", "m")}
    assert any(marker.ring > 0.2 for scene in scenes for marker in scene.markers)


def test_health_bar_and_cooldown_ring_are_filled_in_proportion():
    def frame(bar, ring=0.0):
        marker = Marker((6.0, 3.0), 1.0, (0, 0, 255), bar=bar, ring=ring)
        return playback.draw(Scene((0.0, 0.0), (12.0, 6.0), (marker,), ()))

    full = count(frame(1.0), playback.BAR)
    assert full > 100
    assert count(frame(1.0), playback.BAR_EMPTY) == count(frame(0.0), playback.BAR) == 0
    half = np.asarray(frame(0.5))
    assert count(half, playback.BAR) == pytest.approx(full / 2, rel=0.1)
    assert count(half, playback.BAR_EMPTY) == pytest.approx(full / 2, rel=0.1)
    middle = half.shape[1] // 2
    assert count(half[:, :middle], playback.BAR_EMPTY) == count(half[:, middle + 1 :], playback.BAR) == 0
    arcs = [count(frame(None, ring), playback.DARK) for ring in (0.0, 0.5, 1.0)]
    assert arcs[1] - arcs[0] == pytest.approx((arcs[2] - arcs[0]) / 2, rel=0.1)


def test_particles_as_gif(tmp_path):
    trainer, params = make("mpe/simple_speaker_listener")
    episode = record(trainer, params, jax.random.key(0))
    playback.render(trainer.env, episode, tmp_path / "play.gif")
    with Image.open(tmp_path / "play.gif") as gif:
        assert gif.n_frames == episode.num_steps + 1 == 27
    scene = trainer.env.scenes(episode.states)[3]
    speaker, listener = (marker for marker in scene.markers if marker.shape == "disc")
    assert (speaker.label, listener.label) == ("ABC"[episode.actions[2, 0]], "1")
    (line,) = scene.lines
    landmark = 2 + int(episode.states.goal[3])
    assert (line.start, line.end) == (listener.position, tuple(episode.states.p_pos[3, landmark]))


def test_particles_as_mp4(tmp_path):
    trainer, params = make("mpe/simple_spread", env_kwargs={"max_steps": 5})
    episode = record(trainer, params, jax.random.key(0))
    playback.render(trainer.env, episode, tmp_path / "play.mp4")
    drawn = [np.asarray(playback.draw(scene), int) for scene in trainer.env.scenes(episode.states)]
    with av.open(str(tmp_path / "play.mp4")) as file:
        rate = file.streams.video[0].average_rate
        frames = [frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)]
    assert len(frames) == len(drawn) == episode.num_steps + 1
    assert float(rate) == pytest.approx(1000 / playback.STEP_MILLISECONDS)
    for frame, expected in zip(frames, drawn, strict=True):
        height, width, _ = expected.shape
        assert frame.shape == (height + height % 2, width + width % 2, 3)
        below = slice(playback.CAPTION, height)
        assert np.abs(frame[below, :width] - expected[below]).mean() < 3


def test_odd_sides_are_made_even_without_a_dark_edge(tmp_path):
    playback._save_mp4([Image.new("RGB", (31, 41), playback.BACKGROUND)] * 2, tmp_path / "play.mp4")
    with av.open(str(tmp_path / "play.mp4")) as file:
        frames = [frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)]
    assert [frame.shape for frame in frames] == [(42, 32, 3)] * 2
    assert min(frame.min() for frame in frames) > 200


def test_mp4_without_its_library(monkeypatch, tmp_path):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    trainer = make_train(Config(env="mpe/simple_spread", num_envs=2, rollout_length=8))
    with pytest.raises(ConfigError, match="pip install av"):
        playback.render_policy(trainer, None, key=jax.random.key(0), output=tmp_path / "play.mp4")


@pytest.mark.parametrize("task", ["simple", "simple_spread", "simple_reference"])
def test_other_particles(task):
    trainer, params = make(f"mpe/{task}", env_kwargs={"max_steps": 2})
    scenes = trainer.env.scenes(record(trainer, params, jax.random.key(0)).states)
    playback.draw(scenes[-1])
    assert len(scenes) == 4
    assert sum(marker.shape == "disc" for marker in scenes[0].markers) == trainer.env.num_agents


def test_a_robot_as_html(tmp_path):
    trainer, params = make("mabrax/halfcheetah_6x1", env_kwargs={"episode_length": 3})
    path = playback.render_policy(trainer, params, key=jax.random.key(0), output=tmp_path / "robot")
    assert path.suffix == ".html"
    (packed,) = re.findall(r'var system = "(.*?)"', path.read_text())
    system = json.loads(zlib.decompress(base64.b64decode(packed)))
    assert len(system["states"]["x"]) == 3 + 1
    assert system["opt"]["timestep"] == pytest.approx(0.05)  # that of the environment, not the simulator


@pytest.mark.parametrize(
    ("env", "output", "said"),
    [
        ("matrix/xor", "xor", "'matrix/xor' has nothing to draw"),
        ("smax/3m", "battle.avi", r"battle.avi'.*smax/3m is written as \.gif or \.mp4"),
        ("mabrax/halfcheetah_6x1", "robot.mp4", r"written as \.html"),
        ("mabrax/halfcheetah_6x1", "robot.gif", r"written as \.html"),
    ],
)
def test_what_cannot_be_shown(env, output, said, tmp_path):
    trainer = make_train(Config(env=env, num_envs=2, rollout_length=8))
    with pytest.raises(ConfigError, match=said):
        playback.render_policy(trainer, None, key=jax.random.key(0), output=tmp_path / output)
