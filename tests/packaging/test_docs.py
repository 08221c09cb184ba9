"""What the documentation says, as far as it can be checked."""

import os
import re
from pathlib import Path

import pytest

from fusevol.accesslog.record import EVENTS, AccessRecord, decode
from fusevol.cli.main import COMMANDS
from fusevol.config import parse_options

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("benchmarks/*.md")])

every_page = pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))


@every_page
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)", page.read_text())
    broken = [
        link for link in links if "://" not in link and not (page.parent / link).resolve().exists()
    ]
    assert broken == []


@every_page
def test_commands_exist(page: Path) -> None:
    named = re.findall(r"(?m)(?:^    |^    .* \| |`)fusevol ([a-z]\w*)", page.read_text())
    assert set(named) <= set(COMMANDS)


def test_every_key_of_the_record_is_explained() -> None:
    text = (ROOT / "docs/access-log.md").read_text()
    rows = "\n".join(line for line in text.splitlines() if line.startswith("|"))
    missing = {key for key in AccessRecord.__struct_fields__ if f"`{key}`" not in rows}
    assert missing == set()


def test_every_event_is_explained() -> None:
    text = (ROOT / "docs/access-log.md").read_text()
    assert [event for event in EVENTS if f"| `{event}` |" not in text] == []


def test_examples_of_records_are_records() -> None:
    examples = [
        line.strip()
        for page in (ROOT / "README.md", ROOT / "docs/access-log.md")
        for line in page.read_text().splitlines()
        if line.startswith('    {"time"')
    ]
    assert examples
    for example in examples:
        decode(example.encode())


def test_mount_options_are_known() -> None:
    section = (ROOT / "README.md").read_text().partition("## Mount options")[2].partition("##")[0]
    names = [cell for row in re.findall(r"(?m)^\| (`.*?) \|", section) for cell in row.split(", ")]
    words = [name.strip("`") for name in names]
    assert {"ro", "private", "log=FILE", "=deny"} <= set(words)
    for word in words:
        parse_options(
            {
                "record=LEVEL": "record=all",
                "deadline=SECONDS": "deadline=30",
                "=deny": "on_log_failure=deny",
            }.get(word, word)
        )


def test_fstab_line_is_one() -> None:
    [line] = re.findall(r"(?m)^    (/\S+ +/\S+ +fusevol .*)$", (ROOT / "README.md").read_text())
    fields = line.split()
    assert len(fields) == 6
    parse_options(fields[3])
    assert os.path.isabs(fields[0])
