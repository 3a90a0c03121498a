"""Loading a configuration: interpolation, lines, and every error with its place and the way out."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tidelock.avro import FieldType
from tidelock.config import Config
from tidelock.configfile import SharedTable, example, load, parse, starting_config
from tidelock.errors import Fatal

GOOD = """\
partitions: ${PARTITIONS:-3}
systems:
  crm:
    dsn: ${CRM}
    entities:
      contact:
        table: contacts
        map:
          - {column: mail, field: email}
          - {column: country, field: country, values: {NO: no, 1: DE}}
  erp:
    capture: polling
    dsn: "x$${CRM}"
    entities:
      contact:
        table: people
        modified: changed
        map: [{column: mail, field: email}]
entities:
  contact:
    match: [[email]]
    priority: [erp]
    fields:
      email: {}
      country: {}
      balance: {type: decimal}
flows:
  - {entity: contact, from: crm, to: erp, when: "balance > 0"}
"""


def good(variables: dict[str, str] | None = None) -> Config:
    return parse(GOOD, "t.yaml", {"CRM": "postgresql://crm"} if variables is None else variables)


def errors(text: str, **variables: str) -> list[tuple[int, str, str]]:
    """Return (line, path, message) of every error."""
    with pytest.raises(Fatal) as caught:
        parse(text, "t.yaml", {"CRM": "postgresql://crm", **variables})
    lines = caught.value.message.splitlines()[1:]
    found = [re.fullmatch(r"  t\.yaml:(\d+)  (?:([\w.\[\]]+): )?(.*)", line) for line in lines]
    assert all(found), lines
    return [(int(m[1]), m[2] or "", m[3]) for m in found if m]


def line_of(text: str, part: str) -> int:
    return text[: text.index(part)].count("\n") + 1


def test_a_good_file() -> None:
    config = good()
    assert config.partitions == 3
    crm = config.systems["crm"]
    assert crm.dsn is not None
    assert crm.dsn.get_secret_value() == "postgresql://crm"
    # YAML 1.1 would have made a boolean of Norway, and a number of the key
    assert crm.entities["contact"].map[1].values == {"NO": "no", "1": "DE"}
    erp = config.systems["erp"].dsn
    assert erp is not None
    assert erp.get_secret_value() == "x${CRM}"


def test_variables_are_read_as_what_they_say() -> None:
    assert good({"CRM": "x", "PARTITIONS": "7"}).partitions == 7
    assert good({"CRM": "x", "PARTITIONS": ""}).partitions == 3
    injected = good({"CRM": "a: [b\nc: d"}).systems["crm"].dsn
    assert injected is not None
    assert injected.get_secret_value() == "a: [b\nc: d"


def test_a_variable_that_is_not_set() -> None:
    with pytest.raises(Fatal) as caught:
        good({})
    assert "t.yaml:4  systems.crm.dsn: the variable CRM is not set" in caught.value.message


def test_the_environment_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "tidelock.yaml"
    file.write_text(GOOD)
    monkeypatch.setenv("CRM", "postgresql://here")
    dsn = load(file).systems["crm"].dsn
    assert dsn is not None
    assert dsn.get_secret_value() == "postgresql://here"


@pytest.mark.parametrize(
    ("old", "new", "path", "message"),
    [
        ("field: email}\n", "field: emial}\n", "systems.crm.entities.contact.map[0].field", "did you mean `email`?"),
        ("table: contacts", "tabel: contacts", "systems.crm.entities.contact.tabel", "did you mean `table`?"),
        ("partitions:", "partitons:", "partitons", "did you mean `partitions`?"),
        ("type: decimal", "type: decimals", "entities.contact.fields.balance.type", "did you mean `decimal`?"),
        ("capture: polling", "capture: poling", "systems.erp.capture", "did you mean `polling`?"),
        ("    dsn: ${CRM}", "    kind: postgre\n    dsn: ${CRM}", "systems.crm.kind", "did you mean `postgres`?"),
        ("match: [[email]]", "match: [[mail]]", "entities.contact.match[0][0]", "did you mean `email`?"),
        ("priority: [erp]", "priority: [erpp]", "entities.contact.priority[0]", "did you mean `erp`?"),
        ("entity: contact", "entity: contacts", "flows[0].entity", "did you mean `contact`?"),
        ("to: erp", "to: [store]", "flows[0].to[0]", "systems: crm, erp"),
        ("from: crm", "from: cmr", "flows[0].from", "did you mean `crm`?"),
        ("balance > 0", "balanc > 0", "flows[0].when", "at character 1: there is no field `balanc`"),
        ("        modified: changed\n", "", "systems.erp.entities.contact.modified", "last-modified column"),
        ("    dsn: ${CRM}\n", "", "systems.crm.dsn", "${CRM_DSN}"),
        (
            "table: people",
            'table: people\n        schedule: "61 * * * *"',
            "systems.erp.entities.contact.schedule",
            "0 3 * * *",
        ),
        (
            "table: people",
            "table: people\n        write_delete: disable",
            "systems.erp.entities.contact.disable",
            "status: 0",
        ),
        ("partitions: ${PARTITIONS:-3}", "partitions: many", "partitions", "not `many`"),
        ("  crm:\n", "  CRM:\n", "systems.CRM", "lower-case letters"),
        ("to: erp", "to: crm", "flows[0].to", "to itself"),
        (
            "balance: {type: decimal}",
            "balance: {type: date, scale: 2}",
            "entities.contact.fields.balance.scale",
            "only decimals",
        ),
        ("{column: mail, field: email}\n", "{column: mail}\n", "systems.crm.entities.contact.map[0]", "give `field`"),
        (
            "{column: mail, field: email}\n",
            "{column: country, field: email}\n",
            "systems.crm.entities.contact.map[1]",
            "written by map[0] too",
        ),
        (
            "field: email}\n",
            "field: email, date_format: dd}\n",
            "systems.crm.entities.contact.map[0].date_format",
            "type: date",
        ),
        (
            "field: email}\n",
            "field: email, region: XQ}\n",
            "systems.crm.entities.contact.map[0].region",
            "not a region",
        ),
        (
            "capture: polling",
            "capture: polling\n    capture: outbox",
            "systems.erp.capture",
            "twice; the first is in line 12",
        ),
        ("email: {}", "email: {references: acount}", "entities.contact.fields.email.references", "no entity"),
        ("email: {}", "email: {references: contact}", "entities.contact.match[0][0]", "a key of its own"),
        ("to: erp,", "to: erp, fields: [emial],", "flows[0].fields[0]", "did you mean `email`?"),
    ],
)
def test_one_error_with_its_line_path_and_way_out(old: str, new: str, path: str, message: str) -> None:
    text = GOOD.replace(old, new, 1)
    assert text != GOOD
    found = [e for e in errors(text) if e[1] == path]
    assert len(found) == 1, errors(text)
    line, _, what = found[0]
    assert message in what
    changed = [i for i, (a, b) in enumerate(zip(GOOD.splitlines(), text.splitlines(), strict=False), 1) if a != b]
    assert changed[0] - 6 <= line <= changed[0] + 1


def test_lines_are_exact() -> None:
    text = GOOD.replace("field: email}\n", "field: emial}\n", 1)
    assert errors(text) == [
        (
            line_of(text, "emial"),
            "systems.crm.entities.contact.map[0].field",
            "there is no field `emial`; did you mean `email`?",
        )
    ]


def test_a_wrong_item_does_not_make_its_list_empty() -> None:
    found = errors(GOOD.replace("to: erp", "too: erp"))
    assert sorted(path for _, path, _ in found) == ["flows[0].to", "flows[0].too"]


def test_a_system_that_is_not_captured_feeds_nobody_and_needs_a_table() -> None:
    text = (
        GOOD.replace("    dsn: ${CRM}", "    capture: none\n    dsn: ${CRM}")
        .replace("to: erp", "to: [erp, store]")
        .replace(
            "entities:\n  contact:\n    match", "  store: {capture: none, dsn: x}\nentities:\n  contact:\n    match"
        )
    )
    found = {path: what for _, path, what in errors(text)}
    assert "not captured" in found["flows[0].from"]
    assert "add systems.store.entities.contact" in found["flows[0].to[1]"]


def test_all_errors_come_at_once() -> None:
    text = (
        GOOD.replace("field: email}\n", "field: emial}\n", 1)
        .replace("type: decimal", "type: decimals")
        .replace("from: crm", "from: cmr")
        .replace("partitions:", "partitons:")
    )
    found = errors(text, PARTITIONS="x")
    assert sorted(path for _, path, _ in found) == [
        "entities.contact.fields.balance.type",
        "flows[0].from",
        "flows[0].when",  # a field of an unknown type counts as text, which is not compared with a number
        "partitons",
        "systems.crm.entities.contact.map[0].field",
    ]
    assert [line for line, _, _ in found] == sorted(line for line, _, _ in found)


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("systems:\n  a: [1, 2\nflows: x\n", 3, "not YAML"),
        ("systems:\n\ta: 1\n", 2, "tabs"),
        ("a: b: c\n", 1, "not YAML"),
        ("", 1, "empty"),
        ("- a\n", 1, "not a mapping"),
        ("systems: &x\n  a: *x\n", 2, "nested too deeply"),
    ],
)
def test_files_that_are_not_even_that(text: str, line: int, message: str) -> None:
    found = errors(text)
    assert (found[0][0] if message != "nested too deeply" else line) == line
    assert any(message in what for _, _, what in found)


def test_a_file_that_is_not_there_or_not_text(tmp_path: Path) -> None:
    with pytest.raises(Fatal, match="cannot be read"):
        load(tmp_path / "none.yaml")
    bad = tmp_path / "bad.yaml"
    bad.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(Fatal, match="UTF-8"):
        load(bad)


def test_secrets_are_not_shown() -> None:
    text = GOOD.replace("dsn: ${CRM}", "dsn: [secret-word]")
    assert "secret-word" not in "".join(what for _, _, what in errors(text))


def test_anchors_and_merges() -> None:
    text = GOOD.replace("  crm:\n", "  crm: &base\n", 1).replace(
        "entities:\n  contact:\n    match", "  other:\n    <<: *base\n    dsn: mine\nentities:\n  contact:\n    match"
    )
    other = parse(text, "t.yaml", {"CRM": "x"}).systems["other"]
    assert other.dsn is not None
    assert other.dsn.get_secret_value() == "mine"
    assert other.entities["contact"].table == "contacts"


def test_the_example_is_accepted() -> None:
    config = parse(example(), "example.yaml", {})
    assert set(config.systems) == {"first", "second"}
    assert "#" in example()
    first = parse(example(), "example.yaml", {"FIRST_DSN": "postgresql://elsewhere"}).systems["first"].dsn
    assert first is not None
    assert first.get_secret_value() == "postgresql://elsewhere"


def test_a_starting_configuration_for_two_databases() -> None:
    columns = {"Order No": FieldType.STRING, "firstName": FieldType.STRING, "2nd": FieldType.DECIMAL}
    tables = [SharedTable("order", 'sales."Orders"', "orders", columns, ("Order No",), ("a", "b"))]
    config = parse(starting_config("postgresql://u:p@h/a b", "dbname=x password='#1'", tables), "t.yaml", {})
    assert list(config.entities["order"].fields) == ["order_no", "first_name", "f_2nd"]
    assert config.entities["order"].fields["f_2nd"].type is FieldType.DECIMAL
    assert config.entities["order"].match == (("order_no",),)
    second = config.systems["second"].dsn
    assert second is not None
    assert second.get_secret_value() == "dbname=x password='#1'"
    assert config.systems["first"].entities["order"].table == 'sales."Orders"'
    assert config.systems["first"].entities["order"].key == ("a", "b")
