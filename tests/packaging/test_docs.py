"""What the documentation says, as far as it can be checked."""

import itertools
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from fusevol.cli.main import COMMANDS
from fusevol.options.mount_words import parse_options
from fusevol.options.table import OPTIONS, Option
from fusevol.record.record import EVENTS, AccessRecord, decode

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("benchmarks/*.md")])

every_page = pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives to the headings of a page."""
    headings = re.findall(r"(?m)^#+ +(.*?) *#*$", re.sub(r"(?ms)^```.*?^```", "", page.read_text()))
    found: set[str] = set()
    for heading in headings:
        text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
        names = (f"{slug}-{number}" if number else slug for number in itertools.count())
        found.add(next(name for name in names if name not in found))
    return found


@every_page
def test_links_lead_somewhere(page: Path) -> None:
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)", page.read_text()):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


@every_page
def test_tables_are_whole(page: Path) -> None:
    """A row without a head above it, or with another number of cells, is shown as text."""
    blocks = itertools.groupby(page.read_text().splitlines(), key=lambda line: line[:1] == "|")
    for head, *rest in [list(lines) for is_table, lines in blocks if is_table]:
        assert rest, head
        assert re.fullmatch(r"(\| *:?-+:? *)+\|", rest[0]), head
        assert [row for row in rest if cells(row) != cells(head)] == []


def cells(row: str) -> int:
    return len(re.findall(r"(?<!\\)\|", row)) - 1


@every_page
def test_commands_exist(page: Path) -> None:
    named = re.findall(r"(?m)(?:^    |^    .* \| |`)fusevol ([a-z]\w*)", page.read_text())
    assert set(named) <= set(COMMANDS)


def test_first_screen_of_the_readme_has_what_a_newcomer_looks_for() -> None:
    screen = "\n".join((ROOT / "README.md").read_text().splitlines()[:40])
    for needed in ("make demo", "make test", "log tail", "auditd", "Status:", "Needs:", "Cost:"):
        assert needed in screen, needed


def test_every_page_of_docs_is_linked_from_the_readme() -> None:
    text = (ROOT / "README.md").read_text()
    names = [page.name for page in ROOT.glob("docs/*.md")]
    assert [name for name in names if f"(docs/{name})" not in text] == []


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


def test_tables_of_options_are_those_of_the_table() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "scripts/option-tables", "--check"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("option", [one for one in OPTIONS if one.page], ids=lambda one: one.name)
def test_a_page_explains_the_options_that_lead_to_it(option: Option) -> None:
    text = (ROOT / "docs" / option.page).read_text()
    assert re.search(rf"(?m)^\|.*`{option.name}[`=]|^## .*`{option.name}|`-o {option.name}", text)


def test_fstab_line_is_one() -> None:
    [line] = re.findall(
        r"(?m)^    (/\S+ +/\S+ +fusevol .*)$", (ROOT / "docs/operating.md").read_text()
    )
    fields = line.split()
    assert len(fields) == 6
    parse_options(fields[3])
    assert os.path.isabs(fields[0])
