"""The steps of long loops in fewer kernels.

On an accelerator a small kernel takes the time that it takes to start. What depends on nothing that a loop
changes is computed before it. And short loops within its steps, writes to fixed places of an array, and sums
by place, which keep XLA from making one kernel of what stands before and after them, become plain equations.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, jaxpr_as_fun
from jax.extend.core.primitives import jit_p, scatter_add_p, scatter_p

from fp3o_jax.kernels.equations import How, Part, Scan, Traced, apart, is_scan, run, variables

#: Equations that a loop within a step may come to: SMAX's of eight has 1,400, physics ten times as many.
LONGEST = 5_000
#: Elements of what a step gives that is kept together with others: their write is one kernel.
LARGEST = 2**16
#: Comparisons of places that a sum by place may take.
FEW = 2**12


def in_few_kernels(fn: Callable[..., Any]) -> Callable[..., Any]:
    """``fn``, the steps of whose scans start fewer kernels.

    It computes the same, but for the order in which a few numbers are added to one place, which is fixed here
    and is not where a GPU adds them by atomic operations, and for the sign of zeros there. What has a
    derivative of its own, branches, and loops without a known number of steps are left alone.

    Args:
        fn: a function of pytrees of arrays, called without keywords.
    """

    @functools.wraps(fn)
    def rewritten(*args: Any) -> Any:
        program, flat, gives = Traced.of(fn, *args)
        return jax.tree.unflatten(gives, run(program, _parts(program.jaxpr, within=False), *flat))

    return rewritten


def _parts(jaxpr: Jaxpr, within: bool) -> Iterator[Part]:
    """Equations of a program, or of a step ``within`` a loop: without jitted functions, which become what is
    within them, and with loops rewritten."""

    def choose(equation: JaxprEqn) -> How:
        if equation.primitive is jit_p:
            return functools.partial(_inlined, equation, within)
        if is_scan(equation) and equation.params["length"] and not equation.effects:
            return functools.partial(_unroll if within and _is_short(equation) else _loop, equation)
        return None

    return apart(jaxpr.eqns, choose)


def _is_short(equation: JaxprEqn) -> bool:
    return _count([equation]) <= LONGEST


def _count(equations: Iterable[JaxprEqn]) -> int:
    """How many there are, those within others too: of a scan as often as it runs them, of branches all."""
    total = 0
    for equation in equations:
        within = [
            p for each in equation.params.values() for p in (each if isinstance(each, tuple) else (each,))
        ]
        steps = equation.params["length"] if is_scan(equation) else 1
        total += 1 + steps * sum(_count(p.jaxpr.eqns) for p in within if isinstance(p, ClosedJaxpr))
    return total


def _inlined(equation: JaxprEqn, within: bool, read: Callable[..., list[Any]]) -> list[Any]:
    program = equation.params["jaxpr"]
    name = str(equation.source_info.name_stack)
    with jax.named_scope(name) if name else contextlib.nullcontext():
        return run(program, _parts(program.jaxpr, within), *read(equation.invars))


def _unroll(equation: JaxprEqn, read: Callable[..., list[Any]]) -> list[Any]:
    """The results of a scan, without a loop."""
    scan = Scan.of(equation)
    consts, carry, xs = read(scan.consts), read(scan.carry), read(scan.xs)
    kind, steps = dict(scan.kind), []
    order = range(kind["length"])
    for i in reversed(order) if kind["reverse"] else order:
        results = run(scan.body, _parts(scan.body.jaxpr, within=True), *consts, *carry, *(x[i] for x in xs))
        carry = results[: len(carry)]
        steps.append(results[len(carry) :])
    steps = steps[::-1] if kind["reverse"] else steps
    return [*carry, *(jnp.stack(ys) for ys in zip(*steps, strict=True))]


def _loop(equation: JaxprEqn, read: Callable[..., list[Any]]) -> list[Any]:
    """The results of a scan, as those of one with fewer kernels in a step."""
    scan = Scan.of(equation)
    consts, carry, xs = read(scan.consts), read(scan.carry), read(scan.xs)

    def step(carry: list[Any], x: list[Any]) -> tuple[list[Any], list[Any]]:
        results = run(scan.body, _parts(scan.body.jaxpr, within=True), *consts, *carry, *x)
        return results[: len(carry)], results[len(carry) :]

    one = jax.eval_shape(lambda xs: [x[0] for x in xs], xs)
    program, flat, gives = Traced.of(step, carry, one)
    program = jax.make_jaxpr(functools.partial(run, program, _without_scatters(program)))(*flat)
    step = _invariants_first(program, gives)
    _, shapes = jax.eval_shape(step, carry, one)
    together: dict[Any, list[int]] = {}
    for i, y in enumerate(shapes):
        together.setdefault((y.dtype, y.weak_type) if y.size <= LARGEST else i, []).append(i)

    def packed(carry: list[Any], x: list[Any]) -> tuple[list[Any], list[Any]]:
        carry, ys = step(carry, x)
        flat = [jax.lax.reshape(y, (shape.size,)) for y, shape in zip(ys, shapes, strict=True)]
        return carry, [jax.lax.concatenate([flat[i] for i in group], 0) for group in together.values()]

    carry, stacks = jax.lax.scan(packed, carry, xs, **dict(scan.kind))
    ys: list[Any] = [None] * len(shapes)
    for group, stack in zip(together.values(), stacks, strict=True):
        ends = np.cumsum([shapes[i].size for i in group])
        for i, rows in zip(group, jnp.split(stack, ends[:-1], 1), strict=True):
            ys[i] = rows.reshape((len(rows), *shapes[i].shape))
    return [*carry, *ys]


def _invariants_first(program: ClosedJaxpr, gives: Any) -> Callable[[Any, Any], Any]:
    """The step of a scan, of which what none of its arguments decides is computed now.

    Arrays that are only larger than what they are made of are made in each step: that costs no kernel.

    Args:
        program: of a step, from the leaves of carry and x.
        gives: the structure of what it gives.
    """
    jaxpr = program.jaxpr
    fixed, early = set(jaxpr.constvars), []
    for equation in jaxpr.eqns:
        taken = variables(equation.invars)
        if taken and fixed.issuperset(taken) and not equation.effects:
            early.append(equation)
            fixed |= set(equation.outvars)
    while True:
        needed = {v for equation in early for v in variables(equation.invars)}
        kept = [eqn for eqn in early if not _inflates(eqn) or needed.intersection(eqn.outvars)]
        if len(kept) == len(early):
            break
        early = kept
    late = [equation for equation in jaxpr.eqns if not any(equation is other for other in early)]
    given = [v for equation in early for v in equation.outvars]
    first = jaxpr.replace(constvars=(), invars=list(jaxpr.constvars), outvars=given, eqns=early)
    made = jaxpr_as_fun(ClosedJaxpr(first, ()))(*program.consts)
    rest = jaxpr.replace(constvars=[*jaxpr.constvars, *given], eqns=late)
    rest = jaxpr_as_fun(ClosedJaxpr(rest, [*program.consts, *made]))
    return lambda carry, x: jax.tree.unflatten(gives, rest(*jax.tree.leaves((carry, x))))


def _inflates(equation: JaxprEqn) -> bool:
    """Whether it gives more than the largest array that it takes."""
    return sum(v.aval.size for v in equation.outvars) > max(v.aval.size for v in variables(equation.invars))


def _without_scatters(program: ClosedJaxpr) -> Iterator[Part]:
    """Equations in which a window that is written to a fixed place, and spans the array in all other axes,
    stands between what is left and right of it; and a few numbers are added to a few others by comparing
    places, in one order."""

    def choose(equation: JaxprEqn) -> How:
        if equation.primitive is scatter_p and (window := _window(equation, program)):
            return functools.partial(_between, equation, *window)
        if equation.primitive is scatter_add_p and _adds_few(equation):
            return functools.partial(_added, equation)
        return None

    return apart(program.jaxpr.eqns, choose)


def _adds_few(equation: JaxprEqn) -> bool:
    """Whether numbers [..., K] are added to numbers [..., N] at places [..., K, 1], those beyond left out."""
    numbers, (array, where, new) = equation.params["dimension_numbers"], (v.aval for v in equation.invars)
    last = array.ndim - 1
    before = tuple(range(last))
    return (
        (numbers.update_window_dims, numbers.inserted_window_dims) == ((), (last,))
        and numbers.scatter_dims_to_operand_dims == (last,)
        and (numbers.operand_batching_dims, numbers.scatter_indices_batching_dims) == (before, before)
        and (where.shape, where.dtype) == ((*new.shape, 1), jnp.int32)
        and new.ndim == array.ndim
        and equation.params["mode"] is jax.lax.GatherScatterMode.FILL_OR_DROP
        and array.shape[-1] * new.shape[-1] <= FEW
    )


def _added(equation: JaxprEqn, read: Callable[..., list[Any]]) -> list[Any]:
    x, where, new = read(equation.invars)
    here = where == jnp.arange(x.shape[-1], dtype=jnp.int32)
    return [x + jnp.where(here, new[..., None], jnp.zeros((), x.dtype)).sum(-2, dtype=x.dtype)]


def _between(
    equation: JaxprEqn, axis: int, begin: int, shape: tuple[int, ...], read: Callable[..., list[Any]]
) -> list[Any]:
    x, _, new = read(equation.invars)
    parts = (
        jax.lax.slice_in_dim(x, 0, begin, axis=axis),
        new.reshape(shape),
        jax.lax.slice_in_dim(x, begin + shape[axis], None, axis=axis),
    )
    return [jnp.concatenate(parts, axis)]


def _window(equation: JaxprEqn, program: ClosedJaxpr) -> tuple[int, int, tuple[int, ...]] | None:
    """Where a scatter writes, if that is a single window at a place that is known, smaller than the array in
    one axis at most: that axis, where it begins there, and its shape. Else None."""
    numbers, body = equation.params["dimension_numbers"], equation.params["update_jaxpr"]
    array, where, new = (v.aval for v in equation.invars)
    # Functions that are applied to what is there come as scatters too.
    overwrites = body is None or (not body.eqns and body.outvars[0] is body.invars[1])
    if not overwrites or where.ndim != 1 or numbers.operand_batching_dims or not array.ndim:
        return None
    place = _constant(equation.invars[1], program)
    if place is None:
        return None
    begin, shape = [0] * array.ndim, list(new.shape)
    for axis in sorted(numbers.inserted_window_dims):
        shape.insert(axis, 1)
    for axis, at in zip(numbers.scatter_dims_to_operand_dims, place, strict=True):
        begin[axis] = int(at)
    room = [size - width for size, width in zip(array.shape, shape, strict=True)]
    narrow = [axis for axis, left in enumerate(room) if left]
    if len(narrow) > 1 or 0 in shape or not all(0 <= b <= r for b, r in zip(begin, room, strict=True)):
        return None
    axis = narrow[0] if narrow else 0
    return axis, begin[axis], tuple(shape)


def _constant(variable: Any, program: ClosedJaxpr) -> np.ndarray | None:
    """The value of a variable that no argument of the program decides; else None."""
    jaxpr = program.jaxpr
    made = {v: equation for equation in jaxpr.eqns for v in equation.outvars}
    consts = dict(zip(jaxpr.constvars, program.consts, strict=True))
    needed, seen, fixed = variables([variable]), set(), {}
    while needed:
        v = needed.pop()
        if v in seen:
            continue
        seen.add(v)
        if v in made:
            needed += variables(made[v].invars)
        elif v in consts and not isinstance(consts[v], jax.core.Tracer):
            fixed[v] = consts[v]
        else:
            return None
    eqns = [equation for equation in jaxpr.eqns if seen.intersection(equation.outvars)]
    part = jaxpr.replace(constvars=list(fixed), invars=(), outvars=[variable], eqns=eqns)
    with jax.ensure_compile_time_eval():
        return np.asarray(jaxpr_as_fun(ClosedJaxpr(part, list(fixed.values())))()[0])
