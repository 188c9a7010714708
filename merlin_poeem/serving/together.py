"""Requests answered together, so that what is wrong with one hurts no other."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import TypeVar

Asked = TypeVar("Asked")
Answer = TypeVar("Answer")


def answer_each(
    asked: Sequence[Asked | Exception],
    kind_of: Callable[[Asked], Hashable],
    answer_all: Callable[[list[Asked]], Sequence[Answer]],
) -> list[Answer | Exception]:
    """An answer to each request, or the exception that it is to blame for.

    ``asked`` are requests that were read, or what was wrong with them. Those of one kind are
    answered at once; where that fails, each alone.
    """
    answers: dict[int, Answer | Exception] = {}
    kinds: dict[Hashable, dict[int, Asked]] = {}
    for number, one in enumerate(asked):
        if isinstance(one, Exception):
            answers[number] = one
        else:
            kinds.setdefault(kind_of(one), {})[number] = one
    for of_kind in kinds.values():
        found = _answers(list(of_kind.values()), answer_all)
        answers.update(zip(of_kind, found, strict=True))
    return [answers[number] for number in range(len(asked))]


def _answers(
    asked: list[Asked], answer_all: Callable[[list[Asked]], Sequence[Answer]]
) -> list[Answer | Exception]:
    try:
        return list(answer_all(asked))
    except Exception as error:  # whatever it is, it goes to who asked
        if len(asked) == 1:
            return [error]
        return [_answers([one], answer_all)[0] for one in asked]
