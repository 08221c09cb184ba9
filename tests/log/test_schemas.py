"""What the formats of others say about their documents holds for ours.

OCSF is checked against its published schema, which the package ocsf-json-schema carries. ECS has no
package that carries its fields; the part that we use is written down in ecs_schema.json.
"""

import json
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import jsonschema  # type: ignore[import-untyped]
import pytest
from hypothesis import example, given
from ocsf_json_schema import (  # type: ignore[import-untyped]
    OcsfJsonSchemaEmbedded,
    get_ocsf_schema,
)

from fusevol.record.formats import ecs, juicefs, ocsf
from fusevol.record.record import AccessRecord
from tests.log.records import OPERATION_RECORDS, RECORDS
from tests.log.test_formats import GAP, RENAME

Check = Callable[[Any], None]

ECS_SCHEMA: Final = json.loads(Path(__file__).with_name("ecs_schema.json").read_text())


def validator(schema: dict[str, Any]) -> Check:
    jsonschema.Draft202012Validator.check_schema(schema)
    check: Check = jsonschema.Draft202012Validator(schema).validate
    return check


def ocsf_validator() -> Check:
    published = OcsfJsonSchemaEmbedded(get_ocsf_schema(version=ocsf.VERSION))
    name = published.lookup_class_name_from_uid(1001)
    return validator(published.get_class_schema(name, profiles=["container"]))


check_ecs: Final = validator(ECS_SCHEMA)
check_ocsf: Final = ocsf_validator()


@given(RECORDS)
@example(RENAME)
@example(GAP)
def test_ecs(record: AccessRecord) -> None:
    check_ecs(json.loads(ecs.encode(record)))


@given(RECORDS)
@example(RENAME)
@example(GAP)
def test_ocsf(record: AccessRecord) -> None:
    check_ocsf(json.loads(ocsf.encode(record)))


@pytest.mark.parametrize(
    "change",
    [{"time": "now"}, {"activity_id": 77}, {"file": {"name": "a"}}, {"op": "read"}, {"actor": {}}],
)
def test_ocsf_schema_refuses_what_is_wrong(change: dict[str, Any]) -> None:
    with pytest.raises(jsonschema.ValidationError):
        check_ocsf(json.loads(ocsf.encode(RENAME)) | change)


@pytest.mark.parametrize(
    "change",
    [{"@timestamp": "now"}, {"op": "read"}, {"event": {}}, {"user": {"id": 0}}, {"file": {"a": 1}}],
)
def test_ecs_schema_refuses_what_is_wrong(change: dict[str, Any]) -> None:
    with pytest.raises(jsonschema.ValidationError):
        check_ecs(json.loads(ecs.encode(RENAME)) | change)


def test_ecs_type_has_to_fit_its_category() -> None:
    document = json.loads(ecs.encode(RENAME))
    document["event"]["type"] = ["start"]
    with pytest.raises(jsonschema.ValidationError):
        check_ecs(document)


@given(OPERATION_RECORDS)
@example(RENAME)
def test_juicefs_profile_reads_its_lines(record: AccessRecord) -> None:
    """By the rules of parseLine in cmd/profile.go of JuiceFS 1.4."""
    words = juicefs.encode(record).decode().split()
    moment = datetime.strptime(" ".join(words[:2]), "%Y.%m.%d %H:%M:%S.%f")
    assert f"{moment.isoformat(timespec='microseconds')}Z" == record.time
    numbers = words[2].strip("[]").replace(":", ",").split(",")[1::2]
    assert [int(number) for number in numbers] == [record.uid, record.gid, record.pid]
    assert words[3] == record.op
    seconds, fraction = words[-1][1:-1].split(".")
    assert int(seconds + fraction) == record.us
