"""Settings in files: ``--config FILE``."""

import json

import pytest
import yaml

from fp3o_jax import Config
from fp3o_jax.cli import main
from fp3o_jax.commands.files import MAX_BYTES, read_settings
from fp3o_jax.presets import PRESETS
from starting import started

WRITTEN = {
    "toml": 'algorithm = "happo"\nactor_lr = 5e-4\ntotal_env_steps = 1e6\nhidden_sizes = [64, 32]\n'
    'recurrent = true\ncondition = "off"\nenv_kwargs = {num_agents = 4}\n',
    "yaml": "algorithm: happo\nactor_lr: 5e-4\ntotal_env_steps: 1e6\nhidden_sizes: [64, 32]\n"
    "recurrent: true\ncondition: off\nenv_kwargs: {num_agents: 4}\n",
    "json": '{"algorithm": "happo", "actor_lr": 5e-4, "total_env_steps": 1e6, "hidden_sizes": [64, 32], '
    '"recurrent": true, "condition": "off", "env_kwargs": {"num_agents": 4}}',
}
MEANT = {"algorithm": "happo", "actor_lr": 5e-4, "total_env_steps": 10**6, "hidden_sizes": (64, 32)}
MEANT |= {"recurrent": True, "condition": "off", "env_kwargs": {"num_agents": 4}}


@pytest.mark.parametrize("kind", WRITTEN)
def test_settings_of_a_file(kind, tmp_path, monkeypatch):
    """YAML as people write it: 5e-4 is a number there, and off a word."""
    file = tmp_path / f"settings.{kind}"
    file.write_text(WRITTEN[kind])
    for command in ("train", "sweep"):
        assert started([command, "--config", str(file)], monkeypatch) == Config(**MEANT)
    given = ["train", "mpe-spread", f"--config={file}", "--actor-lr", "1e-2", "--no-recurrent"]
    expected = PRESETS["mpe-spread"].config.replace(**MEANT | {"actor_lr": 1e-2, "recurrent": False})
    assert started(given, monkeypatch) == expected


def test_config_json_of_a_run_and_flags_that_mend(tmp_path, monkeypatch):
    usual = Config(env="matrix/xor", num_envs=4, advantage_split=(0.5, 0.5), hidden_sizes=(8,))
    (tmp_path / "config.json").write_text(json.dumps(usual.to_dict()))  # as a run writes it
    assert started(["train", "--config", str(tmp_path / "config.json")], monkeypatch) == usual
    (tmp_path / "part.yml").write_text("recurrent: true\nrollout_length: 100\n")
    there = ["train", "--config", str(tmp_path / "part.yml")]
    config = started([*there, "--chunk-length", "10"], monkeypatch)
    assert (config.rollout_length, config.chunk_length) == (100, 10)
    (tmp_path / "dump.yaml").write_text(yaml.safe_dump(usual.to_dict()))
    assert started(["train", "--config", str(tmp_path / "dump.yaml")], monkeypatch) == usual


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.json", '{"actor_rl": 1}', "setting='actor_rl' is unknown: did you mean 'actor_lr'"),
        ("a.json", '{"num_envs": "four"}', "a.json: num_envs='four' must be a whole number"),
        ("a.toml", "num_envs = 1.5", "num_envs=1.5 must be a whole number"),
        ("a.yaml", "recurrent: 1", "recurrent=1 must be True or False"),
        ("a.yaml", "hidden_sizes: [64, x]", "hidden_sizes=[64, 'x'] must be a whole number"),
        ("a.yaml", "condition: false", "condition=False is unknown: valid are joint"),
        ("a.yaml", "sharing: [full]", "sharing=['full'] is unknown"),
        ("a.yaml", "env_kwargs: 3", "env_kwargs=3 must be a mapping"),
        ("a.yaml", "gamma: 2", "gamma=2.0 must lie between 0 and 1"),
        ("a.yaml", "recurrent: true\nrollout_length: 100", "chunk_length=16 must divide rollout_length=100"),
        ("a.yaml", "seed: 1\nseed: 2", "'seed' is there twice"),
        ("a.json", '{"seed": 1, "seed": 2}', "'seed' is there twice"),
        ("a.yaml", "a: &x [1]\nb: [*x, *x]", "anchors and aliases are not for settings"),
        ("a.yaml", "? [a, b]\n: 1", "cannot be read"),
        ("a.yaml", "!!python/object/apply:os.system [touch hacked]", "cannot be read"),
        ("a.yaml", "[" * 100_000, "cannot be read"),
        ("a.json", "[" * 100_000, "cannot be read"),
        ("a.json", "[1]", "must hold a mapping"),
        ("a.json", "{", "cannot be read"),
        ("a.toml", "=", "cannot be read"),
        ("a.json", " " * (MAX_BYTES + 1), "larger than 1,048,576 bytes"),
        ("a.ini", "", "must end in .toml, .yaml, .yml, .json"),
    ],
)
def test_files_that_cannot_be_used(name, text, said, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_text(text)
    assert main(["train", "--config", name]) == 2
    assert said in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_no_file_and_a_run_with_a_file(tmp_path, capsys):
    assert main(["train", "--config", str(tmp_path / "none.toml")]) == 2
    assert "No such file" in capsys.readouterr().err
    assert main(["train", "--config"]) == 2
    assert "--config needs a file of settings" in capsys.readouterr().err
    assert main(["train", "--resume", "run", "--config", "run/config.json"]) == 2
    assert "leave the file out" in capsys.readouterr().err
    (tmp_path / "empty.yaml").write_text("# nothing\n")
    assert read_settings(tmp_path / "empty.yaml") == {}
