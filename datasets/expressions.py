"""Expressions of the coordinates in recipes, "0.1 * sin(2*pi*(x + y))": parsed by a whitelist, never run as code."""

from __future__ import annotations

import ast
import difflib
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["FUNCTIONS", "Expression", "constant"]

LONGEST = 2000  # characters

FUNCTIONS: dict[str, Callable] = {
    "sin": torch.sin,
    "cos": torch.cos,
    "tan": torch.tan,
    "sinh": torch.sinh,
    "cosh": torch.cosh,
    "tanh": torch.tanh,
    "exp": torch.exp,
    "log": torch.log,
    "sqrt": torch.sqrt,
    "abs": torch.abs,
    "sign": torch.sign,
    "minimum": torch.minimum,
    "maximum": torch.maximum,
    "where": lambda condition, yes, no: torch.where(condition != 0, yes, no),
}
_ARGUMENTS = {"minimum": 2, "maximum": 2, "where": 3}
_BINARY = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv, ast.Pow: operator.pow}
_UNARY = {ast.UAdd: operator.pos, ast.USub: operator.neg}
_COMPARE = {ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt, ast.GtE: operator.ge}


class Expression:
    """An arithmetic expression of named variables.

    It may hold numbers, ``pi``, the variables, ``+ - * / **``, one comparison at a time (true is 1), and the functions
    sin, cos, tan, sinh, cosh, tanh, exp, log, sqrt, abs, sign, minimum, maximum, where(condition, yes, no).

    Parameters
    ----------
    text : str
        The expression.
    names : sequence of str
        Variables that it may use.

    Raises
    ------
    ValueError
        If the text is not such an expression; nothing of it is run.

    Examples
    --------
    >>> import torch
    >>> Expression("sin(pi * x) ** 2", ["x"])(x=torch.tensor([0.0, 0.5]))
    tensor([0., 1.])
    """

    def __init__(self, text: str, names: Sequence[str]):
        self.text, self.names = str(text), tuple(names)
        if len(self.text) > LONGEST:
            raise ValueError(f"got an expression of {len(self.text)} characters; write at most {LONGEST}")
        try:
            self._tree = ast.parse(self.text.strip(), mode="eval").body
            self.used = frozenset(self._check(self._tree))
        except (SyntaxError, RecursionError, MemoryError) as error:
            raise ValueError(f"cannot read the expression {self.text[:80]!r}; write it as 0.1 * sin(2*pi*(x + y))") from error

    def __repr__(self) -> str:
        return f"Expression({self.text!r}, {list(self.names)})"

    def __reduce__(self):
        return Expression, (self.text, self.names)

    def __call__(self, **values: Tensor) -> Tensor:
        """Evaluate at tensors that broadcast against one another; the result has their dtype and device."""
        like = next(iter(values.values()))
        return self._evaluate(self._tree, values, like)

    def _check(self, node: ast.AST) -> set[str]:
        """Return the variables used below a node; refuse what is not on the list."""
        match node:
            case ast.Constant(value=bool() | str() | bytes() | complex() | None):
                pass
            case ast.Constant(value=int() | float()):
                return set()
            case ast.Name(id=name):
                if name not in (*self.names, "pi"):
                    raise ValueError(f"the expression {self.text!r} uses {name}; {_hint(name, [*self.names, 'pi'])}")
                return {name} - {"pi"}
            case ast.BinOp(op=op) if type(op) in _BINARY:
                return self._check(node.left) | self._check(node.right)
            case ast.UnaryOp(op=op) if type(op) in _UNARY:
                return self._check(node.operand)
            case ast.Compare(ops=[op]) if type(op) in _COMPARE:
                return self._check(node.left) | self._check(node.comparators[0])
            case ast.Call(func=ast.Name(id=name), keywords=[]):
                if name not in FUNCTIONS:
                    raise ValueError(f"the expression {self.text!r} calls {name}; {_hint(name, FUNCTIONS)}")
                if len(node.args) != _ARGUMENTS.get(name, 1):
                    raise ValueError(
                        f"the expression {self.text!r} gives {name} {len(node.args)} values; it takes {_ARGUMENTS.get(name, 1)}"
                    )
                return set().union(*(self._check(argument) for argument in node.args))
        raise ValueError(f"the expression {self.text!r} holds {ast.unparse(node)!r}; use numbers, pi, variables, + - * / ** and functions")

    def _evaluate(self, node: Any, values: Mapping[str, Tensor], like: Tensor) -> Tensor:
        match node:
            case ast.Constant(value=int() | float() as value):
                return torch.as_tensor(float(value), dtype=like.dtype, device=like.device)
            case ast.Name(id="pi") if "pi" not in values:
                return torch.as_tensor(math.pi, dtype=like.dtype, device=like.device)
            case ast.Name(id=name):
                return values[name]
            case ast.BinOp():
                left, right = self._evaluate(node.left, values, like), self._evaluate(node.right, values, like)
                return _BINARY[type(node.op)](left, right)
            case ast.UnaryOp():
                return _UNARY[type(node.op)](self._evaluate(node.operand, values, like))
            case ast.Compare():
                left, right = self._evaluate(node.left, values, like), self._evaluate(node.comparators[0], values, like)
                return _COMPARE[type(node.ops[0])](left, right).to(like.dtype)
            case _:  # a call: _check has seen to it
                return FUNCTIONS[node.func.id](*(self._evaluate(argument, values, like) for argument in node.args))


def constant(value: object, what: str) -> float:
    """Return the number that a recipe gives as one or as text: ``0.001``, ``"1e-3"``, ``"2*pi"``.

    Raises
    ------
    ValueError
        If it is not a finite number.
    """
    try:
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            number = float(value)
        elif isinstance(value, str):
            number = float(Expression(value, [])(_=torch.zeros((), dtype=torch.float64)))
        else:
            raise ValueError
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{what} is {value!r}; give a number such as 0.001 or 2*pi")
    return number


def _hint(name: str, known) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"did you mean {close[0]}?" if close else f"known are {', '.join(known)}"
