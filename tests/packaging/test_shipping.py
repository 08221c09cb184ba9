"""The configurations in docs/shipping fit what fusevol sends."""

import json
import re
import subprocess
import tomllib
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, Final, get_type_hints

from hypothesis import example, given

from fusevol.logagent.sinks import journal_entry, open_sink, parse, parse_all
from fusevol.logagent.sinks.journal_entry import MESSAGE_IDS, OPERATION_ID, OTHER_EVENT_ID
from fusevol.logagent.sinks.rfc5424 import CUT, MAX_MESSAGE_BYTES
from fusevol.logagent.sinks.spec import FORMS
from fusevol.record.formats import ecs
from fusevol.record.record import AccessRecord, decode, encode
from tests.log.receivers import exported
from tests.log.records import RECORDS
from tests.log.test_formats import GAP, RENAME
from tests.patience import PATIENCE_S
from tests.served import needs_root, wait_until

SHIPPING: Final = Path(__file__).parents[2] / "docs/shipping"
LABELS: Final = {"job", "volume", "op", "result"}
"""What has few values; Loki keeps a stream for each combination."""

ELASTICSEARCH_TYPES: Final = {
    str: {"keyword", "date_nanos", "match_only_text"},
    int: {"long"},
}
TEMPLATE: Final = json.loads((SHIPPING / "elasticsearch-template.json").read_text())


def sinks_named_in(text: str) -> list[str]:
    [named] = re.findall(r"(?m)^# .*\bsinks=(\S+)$", text)
    return str(named).split("+")


def mapping_of(path: tuple[str, ...]) -> dict[str, Any]:
    found: dict[str, Any] = TEMPLATE["template"]["mappings"]
    for name in path:
        found = found["properties"][name]
    return found


def leaves(document: dict[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[Any, Any]]:
    for name, value in document.items():
        if isinstance(value, dict):
            yield from leaves(value, (*path, name))
        else:
            yield (*path, name), value[0] if isinstance(value, list) else value


@given(RECORDS)
@example(RENAME)
@example(GAP)
def test_elasticsearch_has_a_type_for_each_field(record: AccessRecord) -> None:
    for path, value in leaves(json.loads(ecs.encode(record))):
        assert mapping_of(path)["type"] in ELASTICSEARCH_TYPES[type(value)], path


def test_elasticsearch_has_a_type_for_each_key_of_our_own() -> None:
    full: dict[str, Any] = {
        key: 1 if hint in (int, int | None) else "x"
        for key, hint in get_type_hints(AccessRecord).items()
    }
    record = AccessRecord(**(full | {"time": RENAME.time}))
    fields = set(json.loads(ecs.encode(record))["fusevol"])
    assert fields == set(mapping_of(("fusevol",))["properties"])
    assert [TEMPLATE["index_patterns"], TEMPLATE["data_stream"]] == [["logs-fusevol.access-*"], {}]


def sections(name: str) -> list[tuple[str, dict[str, str]]]:
    """Return the sections of a configuration of Fluent Bit, and what stands in each."""
    found: list[tuple[str, dict[str, str]]] = []
    for line in (SHIPPING / name).read_text().splitlines():
        if heading := re.fullmatch(r"\[([A-Z]+)\]", line):
            found.append((heading[1], {}))
        elif line and not line.startswith("#"):
            setting = re.fullmatch(r" {4}([a-z_]+) +(\S.*)", line)
            assert setting, line
            found[-1][1][setting[1]] = setting[2]
    return found


def test_fluent_bit() -> None:
    parts = sections("fluent-bit.conf")
    inputs = {part["tag"]: part for kind, part in parts if kind == "INPUT"}
    outputs = {part["name"]: part for kind, part in parts if kind == "OUTPUT"}
    [service] = [part for kind, part in parts if kind == "SERVICE"]
    parsers = {part["name"]: part for _kind, part in sections(service["parsers_file"])}
    assert {part["match"] for part in outputs.values()} == set(inputs)
    labels = {key.lstrip("$") for key in outputs["loki"]["label_keys"].split(",")}
    assert labels < LABELS
    index = outputs["es"]["index"]
    assert re.fullmatch(TEMPLATE["index_patterns"][0].replace("*", ".+"), index)
    for tag, line in (("fusevol.json", encode(RENAME)), ("fusevol.ecs", ecs.encode(RENAME))):
        parser = parsers[inputs[tag]["parser"]]
        document = json.loads(line)
        # %L is Fluent Bit's own: digits of any number.
        datetime.strptime(document[parser["time_key"]], parser["time_format"].replace("%L", "%f"))
        assert tag != "fusevol.json" or labels <= set(document)


def test_fluent_bit_from_the_journal() -> None:
    parts = dict(sections("fluent-bit-journal.conf"))
    [entry] = exported(journal_entry.encoder(None)(RENAME))
    assert parts["OUTPUT"]["match"] == parts["INPUT"]["tag"]
    labels = {key.lstrip("$") for key in parts["OUTPUT"]["label_keys"].split(",")}
    assert labels <= {name.lower() for name in entry}
    assert {label.removeprefix("fusevol_") for label in labels} < LABELS


def test_vector() -> None:
    text = (SHIPPING / "vector.toml").read_text()
    parts = tomllib.loads(text)
    known = parts["sources"].keys() | parts["transforms"].keys()
    for part in (*parts["transforms"].values(), *parts["sinks"].values()):
        assert set(part["inputs"]) <= known
    listening = [(source["type"], source["path"]) for source in parts["sources"].values()]
    specs = parse_all(sinks_named_in(text))
    assert [("socket", spec.path) for spec in specs] == listening
    labels = parts["sinks"]["loki"]["labels"]
    assert labels.keys() == LABELS
    assert all(labels[key] == f"{{{{ {key} }}}}" for key in LABELS - {"job"})
    stream = parts["sinks"]["elasticsearch"]["data_stream"]
    assert f"{stream['type']}-{stream['dataset']}-*" in TEMPLATE["index_patterns"]


@needs_root
def test_rsyslog_writes_the_records(tmp_path: Path) -> None:
    text = (SHIPPING / "rsyslog.conf").read_text()
    [sink] = sinks_named_in(text)
    received = tmp_path / "fusevol-syslog.json"
    for path in (parse(sink).path, "/var/log/fusevol-syslog.json"):
        assert path in text
        text = text.replace(path, str(tmp_path / Path(path).name))
    sink = f"syslog:{tmp_path / Path(parse(sink).path).name}"
    assert '"%msg%\\n"' in text
    text = text.replace('"%msg%\\n"', '"%timereported:::date-rfc3339% %msg%\\n"')
    configuration = tmp_path / "rsyslog.conf"
    configuration.write_text(
        f'global(workDirectory="{tmp_path}")\nmodule(load="imuxsock" SysSock.Use="off")\n{text}'
    )
    subprocess.run(["rsyslogd", "-N1", "-f", configuration], check=True, timeout=PATIENCE_S)
    process = subprocess.Popen(["rsyslogd", "-n", "-f", configuration, "-i", tmp_path / "pid"])
    try:
        wait_until(lambda: Path(parse(sink).path).is_socket(), "rsyslogd's socket")
        with open_sink(parse(sink)) as opened:
            assert opened.send([(encode(RENAME), RENAME), (encode(GAP), GAP)]) == 2
        wait_until(lambda: received.exists() and received.read_bytes().count(b"\n") == 2, "records")
    finally:
        process.terminate()
        process.wait(PATIENCE_S)
    for line, record in zip(received.read_text().splitlines(), [RENAME, GAP], strict=True):
        time, _, message = line.partition(" ")
        assert time == record.time
        assert decode(message.encode()) == record
    assert received.stat().st_mode & 0o777 == 0o600


def test_what_the_page_says() -> None:
    text = SHIPPING.with_suffix(".md").read_text()
    for words in re.findall(r"sinks=([^\s`]+)", text):
        assert parse_all(words.split("+"))
    for sink in re.findall(r"`((?:journald|syslog|unix):/[a-z][^\s`]*)`", text):
        parse(sink)
    for identity in (*MESSAGE_IDS.values(), OPERATION_ID, OTHER_EVENT_ID, *FORMS):
        assert f"`{identity}`" in text
    assert f"longer than {MAX_MESSAGE_BYTES:,} bytes" in text
    assert f"`{CUT}`" in text
