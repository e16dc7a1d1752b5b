"""What a command line would train with, without training."""

from fp3o_jax import cli


def started(args, monkeypatch):
    """What `fp3o train` or `fp3o sweep` would train with."""
    given = []
    monkeypatch.setattr(cli, "run_training", lambda config, options, **_: given.append(config))
    monkeypatch.setattr(cli.Study, "run", lambda self, *_: given.append(self.config))
    assert cli.main(args) == 0
    return given[0]
