"""Importing the package, and the guard against XLA's deadlock."""

import os
import subprocess
import sys

import pytest

from fp3o_jax import xla


def run(code, **env):
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, **env},
        check=False,
    )


def test_import_prints_nothing_and_starts_nothing():
    done = run("import fp3o_jax, sys; assert 'jax' not in sys.modules; fp3o_jax.Config()")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_unknown_attribute():
    import fp3o_jax

    with pytest.raises(AttributeError, match="no attribute 'make_trian'"):
        _ = fp3o_jax.make_trian


@pytest.mark.parametrize(
    ("version", "before", "after"),
    [
        ("0.10.2", "", f"--{xla.FLAG}=false"),
        ("0.10.2", "--a=b", f"--a=b --{xla.FLAG}=false"),
        ("0.10.2", f"--{xla.FLAG}=true", f"--{xla.FLAG}=true"),
        ("0.11.2", "--a=b", "--a=b"),
        ("0.9.0", "", ""),
    ],
)
def test_guard_sets_the_flag_only_where_it_is_needed(monkeypatch, version, before, after):
    monkeypatch.setattr(xla.metadata, "version", lambda name: version)
    monkeypatch.setattr(xla, "_devices_started", lambda: False)
    monkeypatch.setenv("XLA_FLAGS", before)
    xla.guard()
    assert os.environ["XLA_FLAGS"] == after


def test_guard_tells_a_user_who_started_jax_first(monkeypatch):
    monkeypatch.setattr(xla.metadata, "version", lambda name: "0.10.2")
    monkeypatch.setattr(xla, "_devices_started", lambda: True)
    monkeypatch.setattr(xla, "_in_time", True)
    monkeypatch.setenv("XLA_FLAGS", "")
    xla.guard()
    assert os.environ["XLA_FLAGS"] == ""
    with pytest.warns(RuntimeWarning, match="Import fp3o_jax first"):
        xla.warn_if_unprotected()


def test_guarded_jax_still_starts():
    done = run("import fp3o_jax, jax; print(jax.devices()[0].platform)", JAX_PLATFORMS="cpu")
    assert done.stdout.strip() == "cpu", done.stderr


@pytest.mark.parametrize(("width", "samples"), [(64, 2048), (128, 1024), (2**18, 1)])
def test_a_block_fits_the_cache(width, samples):
    assert xla.block_size(width) == samples
