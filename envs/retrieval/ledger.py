"""A world of text alone: questions about a price list, answered by looking things up and by arithmetic."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable

import numpy as np

ITEMS = ("apple", "bread", "candle", "drum", "egg", "fan", "glove", "hammer", "jar", "kettle", "lamp", "oar")
_OPERATORS: dict[type, Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
LONGEST = 200
"""Characters of an expression."""


class Ledger:
    """Answer questions about what things cost; look prices up and calculate."""

    def reset(self, question: str, answer: str, prices: dict[str, int]) -> str:
        """Begin with a question."""
        self.answer, self.prices = answer, prices
        return question

    def price(self, item: str) -> str:
        """Return the price of an item, a whole number."""
        if item not in self.prices:
            raise LookupError(f"there is no {item!r}")
        return str(self.prices[item])

    def calculate(self, expression: str) -> str:
        """Return the value of an expression of numbers, + - * / and brackets."""
        return f"{calculate(expression):g}"

    def reward(self, answer: str | None) -> float:
        """Return 1 for the right number."""
        return float(answer == self.answer)


def calculate(expression: str) -> float:
    """Return the value of an expression of numbers, + - * / and brackets.

    Raises:
        ValueError: It is no such expression, is too long, or divides by zero.
    """
    if len(expression) > LONGEST:
        raise ValueError(f"the expression has {len(expression)} characters, {LONGEST} are allowed")
    try:
        return _value(ast.parse(expression.strip(), mode="eval").body)
    except (SyntaxError, ZeroDivisionError, OverflowError, RecursionError) as error:
        raise ValueError(f"{expression.strip()!r} cannot be calculated: {error}") from None


def _value(node: ast.expr) -> float:
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float) and not isinstance(node.value, bool):
        return float(node.value)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_value(node.operand)
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        return _OPERATORS[type(node.op)](_value(node.left), _value(node.right))
    raise ValueError(f"{ast.unparse(node)!r} is no number, + - * / or bracket")


def ledger_tasks(count: int, seed: int = 0) -> list[dict[str, object]]:
    """Return tasks: what some pieces of two items cost together."""
    generator = np.random.default_rng((seed, 0x6C65))
    tasks: list[dict[str, object]] = []
    for _ in range(count):
        prices = {item: int(generator.integers(1, 20)) for item in ITEMS}
        first, second = (ITEMS[index] for index in generator.choice(len(ITEMS), 2, replace=False))
        pieces, others = (int(number) for number in generator.integers(2, 6, 2))
        question = f"What do {pieces} x {first} and {others} x {second} cost together?"
        answer = str(pieces * prices[first] + others * prices[second])
        tasks.append({"question": question, "answer": answer, "prices": prices})
    return tasks
