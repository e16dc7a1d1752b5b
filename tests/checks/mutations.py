"""What can be got wrong in a source by one slip: a sign, an operator, a constant, an axis, a bound left out.

Text in, texts out. What changes no number is left alone: docstrings, annotations, decorators, error messages,
`chex` assertions and defaults of arguments that a function deletes.
"""

from __future__ import annotations

import ast
import collections
from collections.abc import Iterator
from typing import NamedTuple

OPERATORS = {
    ast.Add: (ast.Sub,),
    ast.Sub: (ast.Add,),
    ast.Mult: (ast.Div,),
    ast.Div: (ast.Mult,),
    ast.FloorDiv: (ast.Mult,),
    ast.Mod: (ast.FloorDiv,),
    ast.Pow: (ast.Mult,),
    ast.Gt: (ast.GtE, ast.Lt),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Lt: (ast.LtE, ast.Gt),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
    ast.And: (ast.Or,),
    ast.Or: (ast.And,),
}
#: Functions that are taken for one another.
NAMES = {
    **{"minimum": "maximum", "maximum": "minimum", "min": "max", "max": "min", "any": "all", "all": "any"},
    **{"zeros": "ones", "ones": "zeros", "zeros_like": "ones_like", "ones_like": "zeros_like"},
    **{"sum": "max", "mean": "sum", "argmax": "argmin", "argmin": "argmax", "set": "add", "add": "set"},
}
#: Functions of one value, without which a program still runs: their arguments that may stand for the result.
DROPPED = {
    **dict.fromkeys(
        ("exp", "abs", "sqrt", "log1p", "stop_gradient", "clip", "argsort", "roll", "take"), (0,)
    ),
    **dict.fromkeys(("minimum", "maximum"), (0, 1)),
    "where": (1, 2),
}
#: Keywords without which nothing changes that a CPU computes.
KEPT = {"precision", "strict"}


class Mutation(NamedTuple):
    """One slip.

    Attributes:
        name: where it is and what it does; the same in every version of a file in which that stands.
        line: of the file.
        text: the file with the slip in it.
    """

    name: str
    line: int
    text: str


def mutations(source: str) -> list[Mutation]:
    """All slips in a source text, in its order."""
    lines = source.encode().splitlines(keepends=True)
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line))
    whole, seen, found = b"".join(lines), collections.Counter(), []
    for scope, node in _places(ast.parse(source), ""):
        first = starts[node.lineno - 1] + node.col_offset
        last = starts[node.end_lineno - 1] + node.end_col_offset
        for other in _alternatives(node):
            name = f"{scope}: {ast.unparse(node)} -> {other}"
            seen[name] += 1
            text = (whole[:first] + f"({other})".encode() + whole[last:]).decode()
            found.append(Mutation(f"{name} #{seen[name]}" if seen[name] > 1 else name, node.lineno, text))
    return found


def _places(node: ast.AST, scope: str) -> Iterator[tuple[str, ast.expr]]:
    """Expressions that count, with the name of the function that they stand in."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        scope = f"{scope}.{node.name}".lstrip(".")
    if isinstance(node, ast.expr):
        yield scope, node
    for child in _children(node):
        yield from _places(child, scope)


def _children(node: ast.AST) -> Iterator[ast.AST]:
    match node:
        case ast.Raise() | ast.Assert() | ast.Delete() | ast.Import() | ast.ImportFrom() | ast.JoinedStr():
            return
        case ast.Expr(ast.Constant()) | ast.Call(ast.Attribute(ast.Name("chex"))):
            return
        case ast.keyword(arg) if arg in KEPT:
            return
        case ast.FunctionDef():
            deleted = {name.id for stmt in node.body if isinstance(stmt, ast.Delete) for name in stmt.targets}
            every = node.args.posonlyargs + node.args.args
            pairs = list(zip(every[::-1], node.args.defaults[::-1], strict=False))[::-1]
            pairs += zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)
            yield from (default for arg, default in pairs if default is not None and arg.arg not in deleted)
            yield from node.body
        case ast.ClassDef():
            yield from node.body
        case ast.AnnAssign():
            yield from () if node.value is None else (node.value,)
        case _:
            yield from ast.iter_child_nodes(node)


def _alternatives(node: ast.expr) -> Iterator[str]:
    """What may stand for an expression by mistake."""
    parts = {name: getattr(node, name) for name in node._fields}

    def but(**changes: object) -> str:
        return ast.unparse(type(node)(**parts | changes))

    match node:
        case ast.BinOp() | ast.BoolOp():
            yield from (but(op=other()) for other in OPERATORS.get(type(node.op), ()))
        case ast.Compare(ops=[op]):
            yield from (but(ops=[other()]) for other in OPERATORS.get(type(op), ()))
        case ast.UnaryOp(op=ast.USub() | ast.Invert() | ast.Not()):
            yield ast.unparse(node.operand)
        case ast.IfExp():
            yield but(body=node.orelse, orelse=node.body)
        case ast.Constant(bool(value)):
            yield str(not value)
        case ast.Constant(int(value)):
            yield from (str(value + 1), str(value - 1))
        case ast.Constant(float(value)):
            yield from (str(2 * value), "0.0") if value else ("1.0",)
        case ast.Call():
            yield from _other_calls(node, but)


def _other_calls(node: ast.Call, but) -> Iterator[str]:
    name = getattr(node.func, "attr", getattr(node.func, "id", ""))
    key = "attr" if isinstance(node.func, ast.Attribute) else "id"
    if name in NAMES and (key == "attr" or name != "set"):
        fields = {field: getattr(node.func, field) for field in node.func._fields}
        yield but(func=type(node.func)(**fields | {key: NAMES[name]}))
    if len(node.args) > max(DROPPED.get(name, (0,))):
        yield from (ast.unparse(node.args[i]) for i in DROPPED.get(name, ()))
    for keyword in node.keywords:
        # The fields of a tuple are asked for; without one nothing runs.
        if keyword.arg and keyword.arg not in KEPT and not name[:1].isupper():
            yield but(keywords=[other for other in node.keywords if other is not keyword])
