"""A small resolver of Maven runtime dependencies: parents, managed versions, properties, exclusions, nearest wins.

Profiles and version ranges are not supported; a range is refused, since picking a version silently would not be a pin.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from tidelock.embedded.artifacts import Coordinates
from tidelock.errors import Fatal

_FILE_TYPES = {"bundle": "jar", "maven-plugin": "jar", "test-jar": "jar"}
Fetch = Callable[[Coordinates], str]
_PLACEHOLDER = re.compile(r"\$\{([^}]+)\}")
_RUNTIME = {"", "compile", "runtime"}


@dataclass(frozen=True)
class Dependency:
    """One `<dependency>`: what is wanted, in which scope, and without what (`group:artifact`, `*` for any)."""

    group: str
    artifact: str
    version: str = ""
    scope: str = ""
    type: str = "jar"
    classifier: str = ""
    optional: bool = False
    exclusions: frozenset[str] = frozenset()

    @property
    def key(self) -> tuple[str, str, str, str]:
        """Return what must be unique on a class path."""
        return (self.group, self.artifact, self.classifier, self.type)

    @property
    def coordinates(self) -> Coordinates:
        """Return the file's coordinates."""
        return Coordinates(
            self.group, self.artifact, self.version, self.classifier, _FILE_TYPES.get(self.type, self.type)
        )


@dataclass
class Model:
    """One project's effective model, its parents and imported bills of materials worked in."""

    properties: dict[str, str] = field(default_factory=dict)
    managed: dict[tuple[str, str, str, str], Dependency] = field(default_factory=dict)
    dependencies: list[Dependency] = field(default_factory=list)


class Resolver:
    """Resolve runtime class paths; `fetch` returns the text of a POM."""

    def __init__(self, fetch: Fetch) -> None:
        self._fetch = fetch
        self._models: dict[tuple[str, str, str], Model] = {}

    def resolve(self, roots: Sequence[Dependency]) -> list[Coordinates]:
        """Return the roots and everything they need at run time, breadth first: the nearest declaration wins."""
        chosen: dict[tuple[str, str, str, str], Dependency] = {}
        queue = deque((root, root.exclusions) for root in roots)
        while queue:
            wanted, exclusions = queue.popleft()
            if wanted.key in chosen:
                continue
            chosen[wanted.key] = wanted
            for child in self._model(wanted).dependencies:
                if child.optional or child.scope not in _RUNTIME or _excluded(child, exclusions):
                    continue
                queue.append((child, exclusions | child.exclusions))
        return [dependency.coordinates for dependency in chosen.values()]

    def _model(self, of: Dependency) -> Model:
        key = (of.group, of.artifact, of.version)
        if key not in self._models:
            self._models[key] = self._load(*key)
        return self._models[key]

    def _load(self, group: str, artifact: str, version: str) -> Model:
        coordinates = Coordinates(group, artifact, version, type="pom")
        raw = self._raw(coordinates)
        model = Model(properties=raw.properties)
        imports: list[Dependency] = []
        for entry in raw.managed.values():
            managed = _interpolate(entry, raw.properties)
            if managed.scope == "import" and managed.type == "pom":
                imports.append(managed)
            else:
                model.managed[managed.key] = managed
        for bill in imports:
            for key, managed in self._model(bill).managed.items():
                model.managed.setdefault(key, managed)
        for entry in raw.dependencies:
            model.dependencies.append(_manage(_interpolate(entry, raw.properties), model, coordinates))
        return model

    def _raw(self, coordinates: Coordinates) -> Model:
        """Return the model with its parents merged in, before placeholders are replaced: children override properties."""
        project = _parse(self._fetch(coordinates), coordinates)
        parent = project.find("parent")
        base = Model()
        if parent is not None:
            base = self._raw(
                Coordinates(_text(parent, "groupId"), _text(parent, "artifactId"), _text(parent, "version"), type="pom")
            )
        properties = dict(base.properties)
        for entry in project.findall("properties/*"):
            properties[entry.tag] = (entry.text or "").strip()
        if parent is not None:
            properties["project.parent.groupId"] = _text(parent, "groupId")
            properties["project.parent.version"] = _text(parent, "version")
        for prefix in ("project.", "pom.", ""):
            properties[f"{prefix}groupId"] = coordinates.group
            properties[f"{prefix}artifactId"] = coordinates.artifact
            properties[f"{prefix}version"] = coordinates.version
        own = [_dependency(entry) for entry in project.findall("dependencies/dependency")]
        managed = [_dependency(entry) for entry in project.findall("dependencyManagement/dependencies/dependency")]
        return Model(
            properties=properties,
            managed={
                **{entry.key: entry for entry in managed},
                **{k: v for k, v in base.managed.items() if k not in {m.key for m in managed}},
            },
            dependencies=own + [entry for entry in base.dependencies if entry.key not in {mine.key for mine in own}],
        )


def _parse(text: str, coordinates: Coordinates) -> ET.Element:
    try:
        project = ET.fromstring(text)  # noqa: S314 - from the repository whose code we run anyway
    except ET.ParseError as error:
        raise Fatal(
            f"{coordinates.path} is not a POM: {error}", hint="Check that TIDELOCK_MAVEN_URL names a Maven repository."
        ) from error
    for element in project.iter():
        if isinstance(element.tag, str):
            element.tag = element.tag.rpartition("}")[2]
    return project


def _text(element: ET.Element, name: str) -> str:
    return (element.findtext(name) or "").strip()


def _dependency(element: ET.Element) -> Dependency:
    return Dependency(
        group=_text(element, "groupId"),
        artifact=_text(element, "artifactId"),
        version=_text(element, "version"),
        scope=_text(element, "scope"),
        type=_text(element, "type") or "jar",
        classifier=_text(element, "classifier"),
        optional=_text(element, "optional") == "true",
        exclusions=frozenset(
            f"{_text(entry, 'groupId')}:{_text(entry, 'artifactId') or '*'}"
            for entry in element.findall("exclusions/exclusion")
        ),
    )


def _fill(text: str, properties: Mapping[str, str]) -> str:
    for _ in range(16):  # properties may name properties; a cycle ends here and is left as it stands
        filled = _PLACEHOLDER.sub(lambda match: properties.get(match[1], match[0]), text)
        if filled == text:
            break
        text = filled
    return text


def _interpolate(entry: Dependency, properties: Mapping[str, str]) -> Dependency:
    return replace(
        entry,
        group=_fill(entry.group, properties),
        artifact=_fill(entry.artifact, properties),
        version=_fill(entry.version, properties),
        scope=_fill(entry.scope, properties),
        type=_fill(entry.type, properties),
        classifier=_fill(entry.classifier, properties),
    )


def _manage(entry: Dependency, model: Model, coordinates: Coordinates) -> Dependency:
    managed = model.managed.get(entry.key)
    if managed is not None:
        entry = replace(
            entry,
            version=entry.version or managed.version,
            scope=entry.scope or managed.scope,
            exclusions=entry.exclusions | managed.exclusions,
        )
    needed = not entry.optional and entry.scope in _RUNTIME
    if entry.version.startswith("[") and entry.version.endswith("]") and "," not in entry.version:
        entry = replace(entry, version=entry.version[1:-1])
    if needed and (not entry.version or entry.version[0] in "[(" or "${" in entry.version):
        raise Fatal(
            f"{coordinates.file_name}: no exact version for {entry.group}:{entry.artifact} (found '{entry.version}')",
            hint="Add it with an exact version, or an exclusion, to ROOTS in tidelock/embedded/lock.py.",
        )
    return entry


def _excluded(entry: Dependency, exclusions: frozenset[str]) -> bool:
    candidates = (f"{entry.group}:{entry.artifact}", f"{entry.group}:*", f"*:{entry.artifact}", "*:*")
    return any(candidate in exclusions for candidate in candidates)
