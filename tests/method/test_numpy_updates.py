"""Our schedules against whole updates in float64 NumPy with gradients derived by hand."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import numpy_updates
from finite import assert_allclose, assert_finite
from fp3o_jax import Config
from fp3o_jax.method.advantages import TDErrors
from fp3o_jax.method.batch import Batch
from fp3o_jax.method.schedules import CONDITIONS, make_algorithm
from fp3o_jax.method.update import PipelineUpdate
from fp3o_jax.team import optimizer
from fp3o_jax.team.distributions import Categorical
from fp3o_jax.team.groups import apply_grouped
from fp3o_jax.team.sharing import make_sharing
from update_helpers import drawn

STEPS, ENVS, OBS, STATE, ACTIONS, WIDTH, EPOCHS = 6, 5, 4, 3, 3, 2, 3
COUNT = STEPS * ENVS
ALGORITHMS = ("mappo", "fp3o", "coppo", "happo", "a2po")
#: What all algorithms have in common; their own defaults are tested apart.
COMMON = {"normalization": "agent", "critics_once": False}
SGD = optax.identity()
HP = Config(actor_lr=0.5, critic_lr=0.1, clip_eps=0.1, weight_clip_eps=0.05, max_grad_norm=1e9).hyperparams


class Linear:
    """The networks of the NumPy reference, as the update wants them."""

    num_critics = None  # more than one

    def __init__(self, sharing):
        self.sharing = sharing

    def subteam(self, agents):
        return Linear(make_sharing("none", None, len(agents)))

    def policy(self, params, obs, action_mask, hidden, starts, agents=None):
        return Categorical(self._apply(params, self.sharing, agents, obs)), None

    def value(self, params, inputs, hidden, starts, agents=None):
        rows = self.sharing.num_agents if agents is None else len(agents)
        inputs = jnp.broadcast_to(inputs, (rows, *inputs.shape[1:]))
        return self._apply(params, self.sharing.critic, agents, inputs), None

    def _apply(self, params, sharing, agents, x):
        weights, groups = (params["trunk"], params["head"]), (sharing.trunk, sharing.head)
        return apply_grouped(lambda u, w, x: x @ u @ w, weights, groups, agents, x, in_axes=(0,))


def random_params(sharing, rng):
    trunks, heads = max(sharing.trunk) + 1, max(sharing.head) + 1
    shapes = ((trunks, OBS, WIDTH), (heads, WIDTH, ACTIONS), (trunks, STATE, WIDTH), (trunks, WIDTH))
    return [rng.normal(size=shape) for shape in shapes]


def random_batch(n, team, rng):
    batch = {
        "obs": rng.normal(size=(n, COUNT, OBS)),
        "state": rng.normal(size=(COUNT, STATE)),
        "action": rng.integers(0, ACTIONS, (n, COUNT)),
        "alive": (rng.random((n, COUNT)) < 0.8).astype(float),
        "advantage": rng.normal(size=(n, COUNT)),
        "value": rng.normal(size=(n, COUNT)),
        "target": 8 * rng.normal(size=(n, COUNT)),
        "delta": rng.normal(size=(n, STEPS, ENVS)),
        "decay": 0.9 * (rng.random((STEPS, ENVS)) > 0.2),
    }
    return batch | {"log_prob": np.stack([team.log_prob(batch, i) for i in range(n)])}


@functools.cache
def compiled(algorithm, sharing, dead_ratios, settings):
    return jax.jit(
        PipelineUpdate(
            Linear(sharing),
            make_algorithm(algorithm, **dict(settings)),
            epochs=EPOCHS,
            num_minibatches=1,
            condition=CONDITIONS["joint"],
            tx=SGD,
            dead_ratios=dead_ratios,
        )
    )


def ours(algorithm, sharing, params, batch, schedule, dead_ratios=False, settings=COMMON):
    """The update that training runs, in float64 and with plain gradient descent."""
    U, W, C, c = map(jnp.asarray, params)
    params = {"actor": {"trunk": U, "head": W}, "critic": {"trunk": C, "head": c}}
    sequences = {name: jnp.asarray(x)[:, None] for name, x in batch.items() if name not in ("delta", "decay")}
    rows = Batch(
        **{k: sequences[k] for k in ("obs", "alive", "action", "log_prob", "advantage", "value", "target")},
        critic_inputs=jnp.asarray(batch["state"])[None, None],
        action_mask=None,
        starts=np.zeros((1, 1, COUNT), bool),
        actor_hidden=None,
        critic_hidden=None,
    )
    errors = TDErrors(jnp.asarray(batch["delta"]), jnp.asarray(batch["decay"]))
    update = compiled(algorithm, sharing, dead_ratios, tuple(settings.items()))
    opt_state = {name: optimizer.init(tree, SGD) for name, tree in params.items()}
    arguments = params, opt_state, rows, schedule, jax.random.key(0), HP
    new, _, metrics = update(*arguments, errors=errors)
    return [
        new["actor"]["trunk"],
        new["actor"]["head"],
        new["critic"]["trunk"],
        new["critic"]["head"],
    ], metrics


def both(algorithm, name, n, seed=0, order=None, dead_ratios=False, settings=COMMON):
    """(ours, NumPy's, before, metrics); NumPy's in ``order``, by default the one that was drawn."""
    rng = np.random.default_rng(seed)
    sharing = make_sharing(name, None, n)
    params = random_params(sharing, rng)
    team = numpy_updates.Team(params, sharing.trunk, sharing.head, name != "partial")
    batch = random_batch(n, team, rng)
    with jax.enable_x64(True):
        schedule = drawn(algorithm, seed + 3, n)
        new, metrics = jax.device_get(
            ours(algorithm, sharing, params, batch, schedule, dead_ratios, settings)
        )
        order = order or [int(i) for i in schedule.owners[:, 0]]
    numpy_updates.update(algorithm, team, batch, order, EPOCHS, HP._asdict(), dead_ratios, **settings)
    return new, [team.U, team.W, team.C, team.c], params, metrics


def assert_same(new, expected, before):
    for x, y, start in zip(new, expected, before, strict=True):
        assert x.dtype == np.float64
        change = np.abs(y - start).max()
        assert change > 1e-3
        assert_allclose(x, y, rtol=0, atol=1e-10 * change)


@pytest.mark.parametrize("sharing", ["full", "partial", "none"])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_whole_update_is_numpys(algorithm, sharing):
    new, expected, before, _ = both(algorithm, sharing, 3)
    assert_same(new, expected, before)


@pytest.mark.parametrize(
    ("algorithm", "sharing"), [("fp3o", "partial"), ("coppo", "full"), ("happo", "none"), ("a2po", "none")]
)
def test_ratios_of_the_dead_weigh_as_in_the_reference(algorithm, sharing):
    new, expected, before, _ = both(algorithm, sharing, 3, seed=1, dead_ratios=True)
    assert_same(new, expected, before)
    others = both(algorithm, sharing, 3, seed=1)[0]
    assert_finite(others)
    assert max(np.abs(x - y).max() for x, y in zip(new, others, strict=True)) > 1e-4


@pytest.mark.parametrize(
    ("algorithm", "settings"),
    [
        ("happo", {"normalization": "agent", "critics_once": True}),
        ("a2po", {"normalization": "joint", "critics_once": False}),
    ],
)
def test_with_the_defaults_of_its_authors(algorithm, settings):
    member = make_algorithm(algorithm)
    assert {name: getattr(member, name) for name in settings} == settings
    new, expected, before, _ = both(algorithm, "partial", 3, settings=settings)
    assert_same(new, expected, before)


def test_the_condition_is_seen_to_hold_and_to_fail():
    held = set()
    for seed in range(6):
        new, expected, before, metrics = both("fp3o", "partial", 3, seed)
        assert_same(new, expected, before)
        held.add(float(metrics["condition_held"]))
    assert held == {0.0, 1.0}


@pytest.mark.parametrize("sharing", ["full", "none"])
def test_fp3o_with_the_ratios_of_the_moment(sharing):
    """It is another update exactly where the dependent step runs."""
    held = {}
    for seed in range(3):
        new, expected, before, metrics = both("fp3o", sharing, 3, seed, settings=COMMON | {"live": True})
        assert_same(new, expected, before)
        recorded = both("fp3o", sharing, 3, seed)[0]
        assert_finite(recorded)
        moved = [
            np.abs(x - y).max() / np.abs(x - b).max() for x, y, b in zip(new, recorded, before, strict=True)
        ]
        held[seed] = float(metrics["condition_held"])
        assert (max(moved[:2]) > 1e-3) == bool(held[seed]), (moved, held)
    assert 1.0 in held.values()


@pytest.mark.parametrize("algorithm", ["happo", "a2po"])
def test_weights_accumulate_in_the_drawn_order(algorithm):
    """NumPy's update in each of the six orders: ours is the drawn one's and no other's."""
    results = {order: both(algorithm, "none", 3, order=order) for order in itertools.permutations(range(3))}
    assert_finite(results)
    matching = [
        order
        for order, (new, expected, *_) in results.items()
        if all(np.allclose(x, y, atol=1e-9) for x, y in zip(new, expected, strict=True))
    ]
    with jax.enable_x64(True):
        owners = drawn(algorithm, 3).owners[:, 0]
    assert matching == [tuple(int(i) for i in owners)]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_one_agent_is_single_agent_ppo(algorithm):
    """PPO written out for one agent; the members of the family differ from it only where they say so."""
    rng = np.random.default_rng(0)
    sharing = make_sharing("full", None, 1)
    params = random_params(sharing, rng)
    team = numpy_updates.Team(params, (0,), (0,), True)
    batch = random_batch(1, team, rng)
    hp = HP._asdict()
    advantage = batch["advantage"]
    if algorithm == "a2po":
        advantage = [numpy_updates.corrected_advantage(batch, 0, np.ones(COUNT))]
        advantage = [numpy_updates.normalized(advantage, batch, 0)]
    for _ in range(EPOCHS * (2 if algorithm == "fp3o" else 1)):
        team.step(batch, [0], advantage, [1.0], "outside", hp["clip_eps"], hp)
    with jax.enable_x64(True):
        schedule = drawn(algorithm, 0, 1)
        new, _ = jax.device_get(ours(algorithm, sharing, params, batch, schedule))
    assert_same(new, [team.U, team.W, team.C, team.c], params)
