"""What the tests themselves are built on."""

import dataclasses
from concurrent.futures import Future

import pytest

import order
from fp3o_jax import Config, register_sharing
from fp3o_jax.runs import RunOptions
from fp3o_jax.runs.loop import programs_of
from fp3o_jax.team.sharing import Sharing
from fp3o_jax.train import Trainer, make_train

CONFIG = Config(
    env="matrix/climbing",
    num_envs=4,
    rollout_length=8,
    total_env_steps=64,
    hidden_sizes=(8,),
    layer_norm=False,
)


def compiled(config=CONFIG, options=None, trainer=None):
    """What programs of these settings share with others that are alike; nothing is traced."""
    return programs_of(trainer or make_train(config), [config], options or RunOptions())._compiled


def test_runs_that_are_alike_share_their_programs(tmp_path):
    ours = compiled()
    assert compiled(CONFIG.replace(seed=3), RunOptions(tmp_path, checkpoint_seconds=0)) is ours


@pytest.mark.parametrize(
    "changes",
    [{"num_seeds": 2}, {"epochs": 1}, {"sharing": "none"}, {"env": "matrix/xor"}, {"total_env_steps": 320}],
    ids=lambda changes: next(iter(changes)),
)
def test_those_that_differ_do_not(changes):
    assert compiled(CONFIG.replace(**changes)) is not compiled()


def test_nor_do_those_that_evaluate_otherwise():
    assert compiled(options=RunOptions(eval_episodes=7)) is not compiled()


def test_nor_those_of_objects():
    trainer = dataclasses.replace(make_train(CONFIG))
    assert compiled(trainer=trainer) is not compiled(trainer=trainer)


def test_code_that_a_test_replaces_is_compiled_anew(monkeypatch):
    ours, update = compiled(), Trainer.update
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "update", lambda self, state: update(self, state))
        theirs = compiled()
        assert theirs is not ours and compiled() is theirs
    assert compiled() is ours


def test_what_a_test_registers_is_not_that_of_another():
    register_sharing("pairs", lambda types: Sharing((0, 0), (0, 0)))
    ours = compiled(CONFIG.replace(sharing="pairs"))
    register_sharing("pairs", lambda types: Sharing((0, 1), (0, 1)), replace=True)
    assert compiled(CONFIG.replace(sharing="pairs")) is not ours


def test_a_program_that_failed_or_was_cancelled_is_compiled_again():
    ours = compiled()
    failed, cancelled, whole = Future(), Future(), Future()
    failed.set_exception(RuntimeError("for this test"))
    cancelled.cancel()
    whole.set_result(None)
    ours |= {"init": whole, "update": failed, "greedy": cancelled}
    assert compiled() == {"init": whole}
    ours.clear()


def test_the_files_that_take_longest_are_there():
    assert len({*order.LONGEST}) == len(order.LONGEST)
    places = [order.longest_first(path) for path in order.TESTS.rglob("test_*.py")]
    assert {*range(len(order.LONGEST))} < {*places}
