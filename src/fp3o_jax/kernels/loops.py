"""Loops that need not wait for one another, as one loop.

On an accelerator a small step takes the time that it takes to start, whatever it does: one loop that does the
work of two takes half as many.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn

from fp3o_jax.kernels.equations import Part, Scan, Traced, is_scan, run, variables

ROWS = "of_rows_"


def in_one_loop(fn: Callable[..., Any]) -> Callable[..., Any]:
    """``fn``, whose scans of one length run as one where none waits for what another one computes.

    That holds for the scans within their steps as well, and where one takes, step for step, what another one
    gives. Scans that do the same with arrays of the same shapes, or with more rows (:func:`of_rows`), become
    one of stacked arrays, others one whose step does what each would do. Nothing else is computed than by
    ``fn``, and what all of them keep in memory is there at the same time. What is jitted within, or has a
    derivative of its own, is left alone.

    Args:
        fn: a function of pytrees of arrays, called without keywords.
    """

    @functools.wraps(fn)
    def merged(*args: Any) -> Any:
        program, flat, gives = Traced.of(fn, *args)
        # A single step is no loop, and hides those within.
        while any(is_scan(eqn) and eqn.params["length"] == 1 for eqn in program.jaxpr.eqns):
            program = jax.make_jaxpr(functools.partial(run, program, _parts(_one_by_one, program)))(*flat)
        return jax.tree.unflatten(gives, run(program, _parts(_side_by_side, program), *flat))

    return merged


def of_rows(step: Callable[..., Any]) -> Callable[..., Any]:
    """Marks the step of a scan that does the same to each row of its arrays, whatever the others hold.

    Rows are on the first axis, and what has other ones is the same for all of them. Such scans, whose steps
    are functions of one name, become one of stacked arrays even if one of them has more rows.
    """
    step.__name__ = ROWS + step.__name__
    return jax.jit(step)


def _parts(order: Callable[[Jaxpr], Iterator[list[JaxprEqn]]], program: ClosedJaxpr) -> Iterator[Part]:
    """Its equations some at a time, in an ``order``; scans among them as one."""
    for equations in order(program.jaxpr):
        scans = [Scan.of(equation) for equation in equations if is_scan(equation)]
        if scans and dict(scans[0].kind)["length"] == 1:
            yield equations, functools.partial(_once, *scans)
        elif len(scans) > 1:
            groups = _groups(scans)
            yield (
                equations,
                functools.partial(_stacked, scans, groups) if groups else functools.partial(_beside, scans),
            )
        else:
            yield equations, None


def _one_by_one(jaxpr: Jaxpr) -> Iterator[list[JaxprEqn]]:
    return ([equation] for equation in jaxpr.eqns)


def _side_by_side(jaxpr: Jaxpr) -> Iterator[list[JaxprEqn]]:
    """Scans of a kind at a time that do not wait for one another: each has as many before it, one behind
    another. And, in between, what is no scan."""
    behind: dict[Any, int] = {}
    kinds: dict[Any, Any] = {}
    turns: dict[tuple[int, bool, Any], list[JaxprEqn]] = {}
    for equation in jaxpr.eqns:
        if is_scan(equation):
            scan = Scan.of(equation)
            whole, by_step, kind = [*scan.consts, *scan.carry], scan.xs, scan.kind
            kinds |= dict.fromkeys(scan.ys, kind)
        else:
            whole, by_step, kind = equation.invars, [], None
        waits = [behind.get(v, 0) for v in variables(whole)]
        waits += [behind.get(v, 0) - (kinds.get(v) == kind) for v in variables(by_step)]
        turn = max(waits, default=0)
        turns.setdefault((turn, kind is not None, kind), []).append(equation)
        behind |= dict.fromkeys(equation.outvars, turn + (kind is not None))
    for _, group in sorted(turns.items(), key=lambda item: item[0][:2]):
        yield group


def _once(scan: Scan, read: Callable[..., list[Any]]) -> list[Any]:
    """The results of a scan of one step."""
    carried, ys = scan.step(read(scan.consts), read(scan.carry), [x[0] for x in read(scan.xs)])
    return [*carried, *(y[None] for y in ys)]


def _beside(scans: list[Scan], read: Callable[..., list[Any]]) -> list[Any]:
    """The results of scans as those of one whose step does what each would do."""
    inside = {id(v) for scan in scans for v in scan.ys}

    def step(carries: list[Any], xs: list[Any]) -> tuple[list[Any], list[Any]]:
        given: dict[int, Any] = {}
        carried = []
        for scan, carry, own in zip(scans, carries, xs, strict=True):
            rest = iter(own)
            now = [given[id(v)] if id(v) in inside else next(rest) for v in scan.xs]
            after, ys = scan.step(read(scan.consts), carry, now)
            carried.append(after)
            given.update(zip(map(id, scan.ys), ys, strict=True))
        return carried, [[given[id(v)] for v in scan.ys] for scan in scans]

    xs = [read(v for v in scan.xs if id(v) not in inside) for scan in scans]
    carries, ys = jax.lax.scan(
        in_one_loop(step), [read(scan.carry) for scan in scans], xs, **dict(scans[0].kind)
    )
    return [v for results in zip(carries, ys, strict=True) for part in results for v in part]


def _groups(scans: list[Scan]) -> list[int] | None:
    """Of how many groups each scan is, where all do the same to groups of the same shapes; None if not.

    A scan is a single group, or several of the rows that the smallest one has (:func:`of_rows`).
    """
    inside = {id(v) for scan in scans for v in scan.ys}
    if any(id(v) in inside for scan in scans for v in scan.xs) or any(scan.body.consts for scan in scans):
        return None
    least = min(scans, key=lambda scan: sum(aval.size for aval in scan.body.in_avals))
    shapes = [[(aval.shape, aval.dtype) for aval in scan.body.in_avals] for scan in scans]
    if all(of_scan == shapes[0] for of_scan in shapes):
        texts = {str(scan.body) for scan in scans}
        # Arrays among the constants, such as `[1. 2.]:f32[2]`, are told in few digits.
        return [1] * len(scans) if len(texts) == 1 and "]:" not in min(texts) else None
    names = {_name_of_rows(scan.body.jaxpr) for scan in scans}
    if len(names) > 1 or None in names:
        return None
    groups = [_times(scan, least) for scan in scans]
    return None if None in groups else groups


def _name_of_rows(body: Jaxpr) -> str | None:
    """The name of a step that is one of rows."""
    name = body.eqns[0].params.get("name", "") if len(body.eqns) == 1 else ""
    return name if name.startswith(ROWS) else None


def _times(scan: Scan, least: Scan) -> int | None:
    """How often the rows of ``least`` go into those of ``scan``, the same in whatever differs; else None."""
    found = set()
    for mine, other in zip(scan.body.in_avals, least.body.in_avals, strict=True):
        if mine.dtype != other.dtype:
            return None
        if mine.shape != other.shape:
            rows = [aval.shape[0] if aval.ndim else 1 for aval in (mine, other)]
            fits = mine.shape[1:] == other.shape[1:] and mine.ndim == other.ndim and rows[0] % rows[1] == 0
            found.add(rows[0] // rows[1] if fits else None)
    return found.pop() if len(found) == 1 else None if found else 1


def _stacked(scans: list[Scan], groups: list[int], read: Callable[..., list[Any]]) -> list[Any]:
    """The results of scans as those of one, of the ``groups`` of all of them side by side."""
    least = scans[groups.index(1)]

    def stack(part: str, axis: int = 0) -> list[Any]:
        """Arrays with their rows on ``axis``, and groups of them before it."""

        def split(array: Any, like: Any, count: int) -> Any:
            if array.shape == like.shape:
                return jnp.broadcast_to(
                    jnp.expand_dims(array, axis), (*array.shape[:axis], count, *array.shape[axis:])
                )
            return array.reshape((*array.shape[:axis], count, -1, *array.shape[axis + 1 :]))

        arrays = zip(*(read(getattr(scan, part)) for scan in scans), strict=True)
        likes = read(getattr(least, part))
        return [
            jnp.concatenate([split(x, like, count) for x, count in zip(each, groups, strict=True)], axis)
            for each, like in zip(arrays, likes, strict=True)
        ]

    consts, ends = stack("consts"), [sum(groups[: i + 1]) for i in range(len(groups))]
    step = jax.vmap(least.step)
    carry, ys = jax.lax.scan(
        lambda carry, xs: step(consts, carry, xs), stack("carry"), stack("xs", 1), **dict(scans[0].kind)
    )
    carry = [jnp.split(c, ends[:-1]) for c in carry]
    ys = [jnp.split(y, ends[:-1], 1) for y in ys]
    return [
        part[i].reshape(v.aval.shape)
        for i, scan in enumerate(scans)
        for part, v in zip((*carry, *ys), (*scan.carried, *scan.ys), strict=True)
    ]
