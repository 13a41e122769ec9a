"""The parameter sets that are run by default, chosen by a rule; the others get the marker ``full``.

``covered(strength)`` is for a test with a product of parameters: the fewest sets that meet all
combinations of so many parameters' values are run, chosen greedily. Options, each one name or
several with a space between:
    ``together``: parameters all of whose combinations are met.
    ``whole``: parameters all of whose values are met by each chosen set of the others.
    ``group``: tests of one group are chosen as if the function were one more parameter.
``sampled(step)`` is for a list of cases: the first of each ``step`` is run.

The sets are those that are collected: one that is asked for by its name is always run.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import pytest

Case = Mapping[str, Hashable]
Combination = tuple[tuple[str, Hashable], ...]

#: The name under which the function itself is a parameter.
FUNCTION = "the function"


def combinations_of(
    case: Case, strength: int, together: Sequence[str] = ()
) -> Iterator[Combination]:
    """What a case covers: its values, so many at a time, and those that are named, at once."""
    yield from combinations(
        sorted(case.items(), key=lambda pair: pair[0]), min(strength, len(case))
    )
    if together:
        yield tuple((name, case[name]) for name in together)


def covering(cases: Sequence[Case], strength: int, together: Sequence[str] = ()) -> list[int]:
    """The places of cases that cover what all of them cover; the same ones every time.

    Of those that add most, one is taken whose other values have been taken least.
    """
    offers = [set(combinations_of(case, strength, together)) for case in cases]
    others = [
        tuple((name, value) for name, value in case.items() if name not in together)
        for case in cases
    ]
    wanted = set[Combination]().union(*offers)
    taken, used = list[int](), Counter[Any]()

    def worth(n: int) -> tuple[int, int, int]:
        return len(offers[n] & wanted), -used[others[n]], -sum(used[value] for value in others[n])

    candidates = list(range(len(cases)))
    while wanted:
        candidates = [n for n in candidates if offers[n] & wanted]
        best = max(candidates, key=worth)
        wanted -= offers[best]
        used.update([others[best], *others[best]])
        taken.append(best)
    return sorted(taken)


@dataclass(frozen=True)
class Rule:
    """The arguments of a marker."""

    strength: int = 0
    step: int = 0
    together: str = ""
    whole: str = ""
    group: str = ""


def rule_of(item: pytest.Item) -> Rule:
    """The rule of a test; without a marker each set is the first of one."""
    covered, sampled = item.get_closest_marker("covered"), item.get_closest_marker("sampled")
    return (
        Rule(*covered.args, **covered.kwargs)
        if covered
        else Rule(step=sampled.args[0] if sampled else 1)
    )


def mark_full(items: Iterable[pytest.Item]) -> None:
    """Give the marker ``full`` to those that need not run by default."""
    groups = defaultdict[tuple[Any, str, Rule], list[pytest.Function]](list)
    for item in items:
        if isinstance(item, pytest.Function):
            groups[item.path, rule_of(item).group or item.originalname, rule_of(item)].append(item)
    for (*_, rule), group in groups.items():
        chosen = set(range(0, len(group), rule.step)) if rule.step else set(chosen_of(group, rule))
        for n, item in enumerate(group):
            if n not in chosen:
                item.add_marker("full")


def chosen_of(items: Sequence[pytest.Function], rule: Rule) -> list[int]:
    """The places of those that cover what all of them cover."""
    alike = defaultdict[Any, list[int]](list)
    for n, item in enumerate(items):
        alike[frozenset(case_of(item, rule.whole.split()).items())].append(n)
    places = list(alike.values())
    cases = [case_of(items[first], rule.whole.split()) for first, *_ in places]
    return [n for c in covering(cases, rule.strength, rule.together.split()) for n in places[c]]


def case_of(item: pytest.Function, without: Collection[str] = ()) -> Case:
    """The values of the parameters; arrays and the like stand for themselves."""
    values = {
        name: _hashable(value)
        for name, value in item.callspec.params.items()
        if name not in without
    }
    return {FUNCTION: item.originalname, **values}


def _hashable(value: Any) -> Hashable:
    try:
        hash(value)
    except TypeError:
        return id(value)
    return value
