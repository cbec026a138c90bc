"""The versions that CI installs are those that the pages name and that the package requires."""

import re
import tomllib

import pytest
from conftest import ROOT
from packaging.requirements import Requirement

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PAGE = (ROOT / "docs" / "develop.md").read_text()
HEAD, *ROWS = re.findall(r"^\| (\S+) \| (.+) \| (.+) \|$", PAGE.split("## Supported")[1], re.M)
PYTHONS = tuple(title.removeprefix("Python ") for title in HEAD[1:])
OLDEST, NEWEST = PYTHONS


def pinned(python):
    """Returns the versions that CI installs for a Python, by package."""
    lines = (ROOT / ".ci" / "constraints.txt").read_text().splitlines()
    pins = [Requirement(line) for line in lines if not line.startswith("#")]
    pins = [p for p in pins if not p.marker or p.marker.evaluate({"python_version": python})]
    found = {pin.name: str(pin.specifier).removeprefix("==") for pin in pins}
    assert len(found) == len(pins)  # one line a package
    return found


@pytest.mark.parametrize("python", PYTHONS)
def test_the_table_of_versions_is_what_ci_installs(python):
    column = 1 + PYTHONS.index(python)
    assert pinned(python) == {row[0]: row[column] for row in ROWS}


def test_the_oldest_versions_of_the_table_are_those_that_the_package_requires():
    required = {r.name: r.specifier for r in map(Requirement, PROJECT["dependencies"])}
    for name, version in pinned(OLDEST).items():
        assert f">={version}" in map(str, required[name]), name
        assert required[name].contains(pinned(NEWEST)[name]), name
    assert PROJECT["requires-python"] == f">={OLDEST}"


def test_ci_and_the_readme_name_the_pythons_of_the_table():
    script = (ROOT / ".ci" / "run").read_text()
    assert set(re.findall(r"other=(3\.\d+)", script)) == set(PYTHONS)
    workflow = (ROOT / ".github" / "workflows" / "ci.yml").read_text()
    assert re.findall(r"^ +(3\.\d+)$", workflow, re.M) == [NEWEST, OLDEST]  # the last: the default
    named = " and ".join(f"Python {python} with jax {pinned(python)['jax']}" for python in PYTHONS)
    assert f"CI tests {named}." in " ".join((ROOT / "README.md").read_text().split())


def test_the_page_names_what_ci_runs_with_the_other_python():
    command = (ROOT / ".ci" / "run").read_text().rpartition("python -m pytest ")[2]
    section = PAGE.split("`.ci/run` needs both Pythons.")[1].split("Warnings are errors")[0]
    paths = re.findall(r"tests/[\w/.]+", command)
    assert sorted(paths) == sorted(re.findall(r"`(tests/[\w/.]+)`", section))
    for path in paths:
        assert (ROOT / path).exists(), path
