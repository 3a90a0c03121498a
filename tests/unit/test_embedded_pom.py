"""The resolver of Maven dependencies, on a repository made of strings."""

from __future__ import annotations

import pytest

from tidelock.embedded.artifacts import Coordinates
from tidelock.embedded.pom import Dependency, Resolver
from tidelock.errors import Fatal

ROOT = Dependency("g", "app", "1")


class Repository:
    """POMs by `artifact:version`; all of group `g`."""

    def __init__(self) -> None:
        self.poms: dict[str, str] = {}

    def add(self, name: str, body: str = "", *, namespace: bool = False) -> None:
        artifact, _, version = name.partition(":")
        space = ' xmlns="http://maven.apache.org/POM/4.0.0"' if namespace else ""
        self.poms[name] = (
            f"<project{space}><groupId>g</groupId><artifactId>{artifact}</artifactId><version>{version}</version>"
            f"{body}</project>"
        )

    def __call__(self, coordinates: Coordinates) -> str:
        return self.poms[f"{coordinates.artifact}:{coordinates.version}"]

    def names(self, *roots: Dependency) -> list[str]:
        return [f"{found.artifact}:{found.version}" for found in Resolver(self).resolve(roots or (ROOT,))]


def needs(name: str, extra: str = "") -> str:
    artifact, _, version = name.partition(":")
    told = f"<version>{version}</version>" if version else ""
    return f"<dependency><groupId>g</groupId><artifactId>{artifact}</artifactId>{told}{extra}</dependency>"


def dependencies(*entries: str) -> str:
    return f"<dependencies>{''.join(entries)}</dependencies>"


def managed(*entries: str) -> str:
    return f"<dependencyManagement>{dependencies(*entries)}</dependencyManagement>"


def parent(name: str) -> str:
    artifact, _, version = name.partition(":")
    return f"<parent><groupId>g</groupId><artifactId>{artifact}</artifactId><version>{version}</version></parent>"


@pytest.fixture
def repository() -> Repository:
    return Repository()


def test_only_what_is_needed_at_run_time_is_taken(repository: Repository) -> None:
    repository.add(
        "app:1",
        dependencies(
            needs("a:1"),
            needs("b:1", "<scope>runtime</scope>"),
            needs("c:1", "<scope>test</scope>"),
            needs("d:1", "<scope>provided</scope>"),
            needs("e:1", "<optional>true</optional>"),
        ),
        namespace=True,
    )
    repository.add("a:1")
    repository.add("b:1")
    assert repository.names() == ["app:1", "a:1", "b:1"]


def test_the_nearest_version_wins_even_when_it_is_older(repository: Repository) -> None:
    repository.add("app:1", dependencies(needs("far:1"), needs("shared:1")))
    repository.add("far:1", dependencies(needs("shared:2"), needs("deep:1")))
    repository.add("deep:1")
    repository.add("shared:1")
    assert repository.names() == ["app:1", "far:1", "shared:1", "deep:1"]


def test_at_equal_distance_the_first_declaration_wins(repository: Repository) -> None:
    repository.add("app:1", dependencies(needs("a:1"), needs("b:1")))
    repository.add("a:1", dependencies(needs("shared:1")))
    repository.add("b:1", dependencies(needs("shared:2")))
    repository.add("shared:1")
    assert "shared:1" in repository.names()


@pytest.mark.parametrize(
    "pattern", ["<groupId>g</groupId><artifactId>bad</artifactId>", "<groupId>*</groupId><artifactId>bad</artifactId>"]
)
def test_an_exclusion_holds_for_everything_below_it(repository: Repository, pattern: str) -> None:
    exclusions = f"<exclusions><exclusion>{pattern}</exclusion></exclusions>"
    repository.add("app:1", dependencies(needs("a:1", exclusions)))
    repository.add("a:1", dependencies(needs("b:1")))
    repository.add("b:1", dependencies(needs("bad:1"), needs("good:1")))
    repository.add("good:1")
    assert repository.names() == ["app:1", "a:1", "b:1", "good:1"]


def test_versions_come_from_parents_bills_of_materials_and_properties(repository: Repository) -> None:
    repository.add(
        "app:1",
        parent("parent:1")
        + "<properties><b.version>7</b.version></properties>"
        + dependencies(needs("a"), needs("b"), needs("c")),
    )
    repository.add(
        "parent:1",
        "<properties><b.version>6</b.version><a.version>${all}</a.version><all>5</all></properties>"
        + managed(
            needs("a:${a.version}"), needs("b:${b.version}"), needs("bom:3", "<type>pom</type><scope>import</scope>")
        ),
    )
    repository.add("bom:3", managed(needs("c:${project.version}"), needs("a:1")))
    for name in ("a:5", "b:7", "c:3"):
        repository.add(name)
    assert repository.names() == ["app:1", "a:5", "b:7", "c:3"]


def test_dependencies_of_the_parent_are_inherited(repository: Repository) -> None:
    repository.add("app:1", parent("parent:1"))
    repository.add("parent:1", dependencies(needs("a:${project.version}")))
    repository.add("a:1")
    assert repository.names() == ["app:1", "a:1"]


def test_an_exact_range_is_a_version(repository: Repository) -> None:
    repository.add("app:1", dependencies(needs("a:[4]")))
    repository.add("a:4")
    assert repository.names() == ["app:1", "a:4"]


@pytest.mark.parametrize("version", ["[1,2)", "", "${nowhere}"])
def test_a_version_that_is_no_pin_is_refused(repository: Repository, version: str) -> None:
    repository.add("app:1", dependencies(needs(f"a:{version}")))
    with pytest.raises(Fatal, match="no exact version for g:a"):
        repository.names()


def test_a_page_that_is_no_pom_is_refused(repository: Repository) -> None:
    repository.poms["app:1"] = "<html><p>log in first"
    with pytest.raises(Fatal, match=r"app-1\.pom is not a POM"):
        repository.names()


def test_file_names_and_paths() -> None:
    archive = Coordinates("io.some", "app", "3.3", "all", "tar.gz")
    assert archive.path == "io/some/app/3.3/app-3.3-all.tar.gz"
    assert Coordinates("io.some", "app", "3.3").file_name == "app-3.3.jar"
