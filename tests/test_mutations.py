"""What the mutation check makes of a source, and that its lists fit the code."""

import ast
import runpy
from pathlib import Path

import pytest

CHECKS = Path(__file__).parent / "checks"
EXAMPLE = '''
def f(x: int = 2, unused: float = 1.0, *, axis=3) -> "1 + 1":
    """1 + 1"""
    del unused
    chex.assert_rank(x, 5)
    if x > 1:
        raise ValueError(f"{x + 1} of {x - 1}")
    return -x + jnp.where(é > 0, x, y, precision=1)  # 1 + 1
'''


@pytest.fixture(scope="module")
def check():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(CHECKS)
        return runpy.run_path(str(CHECKS / "mutation_check.py"))


def test_slips(check):
    found, where = check["mutations"](EXAMPLE), "jnp.where(é > 0, x, y, precision=1)"
    assert {m.name for m in found} == {
        *("f: 2 -> 3", "f: 2 -> 1", "f: 3 -> 4", "f: 3 -> 2"),
        *("f: x > 1 -> x >= 1", "f: x > 1 -> x < 1", "f: 1 -> 2", "f: 1 -> 0"),
        *(f"f: -x + {where} -> -x - {where}", "f: -x -> x"),
        *(f"f: {where} -> x", f"f: {where} -> y"),
        *("f: é > 0 -> é >= 0", "f: é > 0 -> é < 0", "f: 0 -> 1", "f: 0 -> -1"),
    }
    by_name = {m.name: m for m in found}
    dropped = by_name[f"f: {where} -> y"]
    assert dropped.line == 8
    assert dropped.text == EXAMPLE.replace(where, "(y)")


def test_lists_fit_the_code(check):
    arguments = {argument for tests in check["TESTS"].values() for argument in tests}
    tests = {
        argument.split("::")[0] for argument in arguments if argument.endswith(".py") or "::" in argument
    }
    assert len(tests) > 5
    assert all((check["ROOT"] / test).exists() for test in tests)
    assert set(check["EQUIVALENT"]) <= set(check["TESTS"])
    for file in check["TESTS"]:
        source = (check["PACKAGE"] / file).read_text()
        slips = check["mutations"](source)
        assert len(slips) >= 20
        assert len({m.name for m in slips}) == len(slips)
        assert all(slip.text != source for slip in slips)
        original = ast.dump(ast.parse(source))
        for slip in slips[::10]:
            assert ast.dump(ast.parse(slip.text)) != original, slip.name
        assert set(check["EQUIVALENT"].get(file, ())) <= {m.name for m in slips}, file
