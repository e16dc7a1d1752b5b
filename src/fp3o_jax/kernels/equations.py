"""Traced functions, and how to run some of their equations in another way."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import jax
from jax.extend.core import ClosedJaxpr, JaxprEqn, Literal, jaxpr_as_fun
from jax.extend.core.primitives import scan_p

#: Equations that run together, and how: a function from one that reads variables to what they give, in order;
#: None to run them as they are.
How = Callable[[Callable[..., list[Any]]], list[Any]] | None
Part = tuple[list[JaxprEqn], How]


class Traced(NamedTuple):
    """A function of pytrees of arrays, as equations.

    Attributes:
        program: from the leaves of what it takes to those of what it gives.
        flat: the leaves that it was traced with.
        gives: the structure of what it gives.
    """

    program: ClosedJaxpr
    flat: list[Any]
    gives: Any

    @classmethod
    def of(cls, fn: Callable[..., Any], *args: Any) -> Traced:
        """``fn(*args)``, traced."""
        flat, tree = jax.tree.flatten(args)
        program, shapes = jax.make_jaxpr(lambda *flat: fn(*tree.unflatten(flat)), return_shape=True)(*flat)
        return cls(program, flat, jax.tree.structure(shapes))


class Scan(NamedTuple):
    """What an equation that is a scan takes and gives, variables of the program around it; and its step.

    Attributes:
        consts, carry, xs: what it takes.
        carried, ys: what it gives.
        body: of a step.
        kind: length, direction and steps at a time, by the names that ``jax.lax.scan`` has for them.
    """

    consts: list[Any]
    carry: list[Any]
    xs: list[Any]
    carried: list[Any]
    ys: list[Any]
    body: ClosedJaxpr
    kind: tuple[tuple[str, Any], ...]

    @classmethod
    def of(cls, equation: JaxprEqn) -> Scan:
        """How many are what is told by their shapes; JAX's versions differ in how they note it."""
        takes, gives, body = equation.invars, equation.outvars, equation.params["jaxpr"]

        def unsliced(outside: list[Any], inside: list[Any]) -> int:
            return sum(v.aval.ndim == aval.ndim for v, aval in zip(outside, inside, strict=True))

        before_xs, before_ys = unsliced(takes, body.in_avals), unsliced(gives, body.out_avals)
        first = before_xs - before_ys
        kind = tuple((name, equation.params[name]) for name in ("length", "reverse", "unroll"))
        return cls(
            takes[:first],
            takes[first:before_xs],
            takes[before_xs:],
            gives[:before_ys],
            gives[before_ys:],
            body,
            kind,
        )

    def step(self, consts: list[Any], carry: list[Any], xs: list[Any]) -> tuple[list[Any], list[Any]]:
        results = jaxpr_as_fun(self.body)(*consts, *carry, *xs)
        return results[: len(carry)], results[len(carry) :]


def is_scan(equation: JaxprEqn) -> bool:
    return equation.primitive is scan_p


def variables(atoms: Iterable[Any]) -> list[Any]:
    """Those that are no constants."""
    return [v for v in atoms if not isinstance(v, Literal)]


def apart(equations: Iterable[JaxprEqn], choose: Callable[[JaxprEqn], How]) -> Iterator[Part]:
    """Each equation that is to be run in a way of its own by itself, those in between together.

    Args:
        equations: in their order.
        choose: how one is run; None as it is.
    """
    plain: list[JaxprEqn] = []
    for equation in equations:
        if (how := choose(equation)) is None:
            plain.append(equation)
            continue
        yield plain, None
        yield [equation], how
        plain = []
    yield plain, None


def run(program: ClosedJaxpr, parts: Iterable[Part], *args: Any) -> list[Any]:
    """The results of a program whose equations are run in ``parts``, each once, after what it takes."""
    jaxpr = program.jaxpr
    values = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*program.consts, *args], strict=True))

    def read(atoms: Iterable[Any]) -> list[Any]:
        return [v.val if isinstance(v, Literal) else values[v] for v in atoms]

    for equations, how in parts:
        given = [v for equation in equations for v in equation.outvars]
        if how is None:
            taken = dict.fromkeys(v for equation in equations for v in variables(equation.invars))
            taken = [v for v in taken if v not in set(given)]
            part = jaxpr.replace(constvars=(), invars=taken, outvars=given, eqns=equations)
            results = jaxpr_as_fun(ClosedJaxpr(part, ()))(*read(taken))
        else:
            results = how(read)
        values.update(zip(given, results, strict=True))
    return read(jaxpr.outvars)
