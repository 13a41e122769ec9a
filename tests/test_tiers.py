"""The selection of tests that is run by default, and the versions that are tested."""

import itertools
import re
import tomllib
from collections import Counter
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version
from tiers import case_of, covering, mark_full, rule_of

HERE = Path(__file__).parent
ROOT = HERE.parent


# --- the rule -------------------------------------------------------------------------------------


@pytest.mark.parametrize("strength", [1, 2, 3])
def test_a_cover_meets_all_combinations_with_few_cases(strength):
    values = {"a": range(4), "b": "xyz", "c": [None, 0.5], "d": [False, True]}
    cases = [dict(zip(values, case, strict=True)) for case in itertools.product(*values.values())]
    chosen = [cases[n] for n in covering(cases, strength)]
    for names in itertools.combinations(values, strength):
        assert len({tuple(case[name] for name in names) for case in chosen}) == len(
            list(itertools.product(*(values[name] for name in names)))
        )
    assert len(chosen) <= {1: 4, 2: 15, 3: 32}[strength] < len(cases) == 48


def test_parameters_together_meet_in_all_ways_and_the_others_take_turns():
    cases = [{"cell": cell, "way": way} for cell in range(20) for way in "abcd"]
    chosen = [cases[n] for n in covering(cases, 1, ["cell"])]
    assert [case["cell"] for case in chosen] == list(range(20))
    assert set(Counter(case["way"] for case in chosen).values()) == {5}


# --- that it leaves nothing out -------------------------------------------------------------------


def collected(request: pytest.FixtureRequest, name: str) -> list[pytest.Function]:
    """The tests of a file that are to cover something, marked."""
    module = pytest.Module.from_parent(request.session, path=HERE / name)
    items = [
        item
        for item in module.collect()
        if isinstance(item, pytest.Function) and rule_of(item).strength
    ]
    mark_full(items)
    return items


def is_default(item: pytest.Function) -> bool:
    return item.get_closest_marker("full") is None


COVERED = [
    p.name
    for p in sorted(HERE.glob("test_*.py"))
    if re.search(r"^[^ ].*mark\.covered\(", p.read_text(), re.MULTILINE)
]


@pytest.mark.parametrize("name", COVERED)
def test_each_value_of_each_parameter_is_met_by_default(name, request):
    covered = collected(request, name)
    met, rest = (
        {
            (rule_of(item).group or item.originalname, *pair)
            for item in items
            for pair in case_of(item).items()
        }
        for items in (filter(is_default, covered), itertools.filterfalse(is_default, covered))
    )
    assert rest <= met
    assert rest


def test_each_cell_of_the_zoo_is_met_and_each_way_on_each_backend_by_some_cells(request):
    from test_zoo import ZOO

    items = [item for item in collected(request, "test_zoo.py") if rule_of(item).group == "ways"]
    found = [dict(case_of(item)) for item in filter(is_default, items)]
    assert {case.pop("name") for case in found} == {*ZOO}
    ways = Counter(tuple(sorted(case.items(), key=str)) for case in found)
    assert len(ways) == 2 * 7
    assert min(ways.values()) >= 3


# --- versions -------------------------------------------------------------------------------------


def pins(file: str) -> dict[str, Version]:
    found = re.findall(r"^([\w-]+)==(\S+)", (ROOT / file).read_text(), re.MULTILINE)
    return {name: Version(version) for name, version in found}


def test_the_versions_that_are_declared_are_those_that_are_tested():
    """In pyproject.toml, in the constraints, and in what the README promises."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = {r.name: r.specifier for r in map(Requirement, project["dependencies"])}
    lowest, usual, newest = map(
        pins, ("constraints-lowest.txt", "constraints.txt", "constraints-newest.txt")
    )
    for name, specifier in declared.items():
        (bound,) = (Version(s.version) for s in specifier if s.operator == ">=")
        assert lowest[name] == bound, name
        for versions in (lowest, usual, newest):
            assert versions[name] in specifier, name
    assert lowest["jax"] == lowest["jaxlib"]
    assert newest["jax"] == newest["jaxlib"]
    pythons = [c.split(" :: ")[-1] for c in project["classifiers"] if "Python :: 3." in c]
    assert project["requires-python"] == f">={pythons[0]}"
    of_jax, of_python = f"{lowest['jax']} to {newest['jax']}", f"{pythons[0]} to {pythons[-1]}"
    promise = f"Tested with JAX {of_jax} on Python {of_python}."
    assert promise in " ".join((ROOT / "README.md").read_text().split())
    makefile = (ROOT / "Makefile").read_text()
    assert {f"python{pythons[0]}", f"python{pythons[-1]}"} <= set(
        re.findall(r"python3\.\d+", makefile)
    )
