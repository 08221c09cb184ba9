"""The page of `fusevol log report`, in a real browser: what it shows, and what it never does."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from selenium.webdriver import Chrome
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import Select

from fusevol.record.record import AccessRecord, encode
from tests.patience import PATIENCE_S
from tests.served import needs_root, serve, wait_until

pytestmark = needs_root

FUSEVOL: Final = [sys.executable, "-c", "from fusevol.cli.main import main; main()"]
OLD: Final = 21_000

NAMES: Final = (
    b"<img src=x onerror=window.hacked=1>",
    b"<script>window.hacked=1<&#47;script>",
    b"\xe2\x80\xaegnp.exe",
    b"\x1b[31mred\x07\nline",
    b"&lt;b&gt; 'quoted\" `${window.hacked=1}`",
    b"latin-\xe9",
    b"long" * 60,
)


def _old_records() -> bytes:
    """The log of an earlier time: more than a page shows, with a gap and a hole in its numbers."""
    lines = []
    for seq in range(1, OLD):
        hour, rest = divmod(seq, 3600)
        time = f"2026-11-20T{hour:02d}:{rest // 60:02d}:{rest % 60:02d}.000000Z"
        record = AccessRecord(
            time=time, seq=seq, volume="data", op=("read", "write", "open")[seq % 3],
            path=f"/old/{seq % 500}", result="EIO" if seq == 77 else "ok", us=seq % 900,
            uid=seq % 4, gid=0, pid=seq % 50, comm="</script><script>window.hacked=1",
            container="ab" * 32,
        )  # fmt: skip
        if seq == 5000:
            record = AccessRecord(
                time=time, seq=seq, volume="data", op="gap", result="ok", us=0, lost=321,
                reason="No space left on device",
            )  # fmt: skip
        if seq != 6000:
            lines.append(encode(record))
    return b"\n".join(lines) + b"\n"


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The log of a real volume on which programs met hostile names, after an older log."""
    directory = tmp_path_factory.mktemp("report")
    log = directory / "access.log"
    log.write_bytes(_old_records())
    with serve(directory, "--name", "data", log=log) as served:
        for name in NAMES:
            path = os.path.join(os.fsencode(served.mountpoint), name.replace(b"/", b"-"))
            with open(path, "wb") as file:
                file.write(b"x" * 1000)
        (served.mountpoint / "full" / "directory").mkdir(parents=True)
        with pytest.raises(OSError, match="not empty"):
            (served.mountpoint / "full").rmdir()
    return log


@pytest.fixture(scope="module")
def page(log: Path) -> Path:
    page = log.with_name("report.html")
    _log("report", "-o", page, log)
    return page


def _log(*words: object) -> bytes:
    return subprocess.run(
        [*FUSEVOL, "log", *map(str, words)],
        stdout=subprocess.PIPE, check=True, timeout=PATIENCE_S,
    ).stdout  # fmt: skip


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    """One for all: to start it takes longer than to use it."""
    # It leaves files behind in both.
    home = str(tmp_path_factory.mktemp("home"))
    environment = {**os.environ, "HOME": home, "TMPDIR": home}
    options = Options()
    options.binary_location = "/usr/bin/chromium"
    for word in ("--headless=new", "--disable-gpu", "--disable-dev-shm-usage", "--no-sandbox"):
        options.add_argument(word)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = Chrome(options, Service("/usr/bin/chromedriver", env=environment))
    try:
        driver.set_page_load_timeout(PATIENCE_S)
        driver.set_script_timeout(PATIENCE_S)
        yield driver
    finally:
        driver.quit()


@pytest.fixture
def shown(browser: Chrome, page: Path) -> Iterator[Chrome]:
    """The page as a reader in India finds it; it must have said nothing on the console after."""
    browser.execute_cdp_cmd("Emulation.setTimezoneOverride", {"timezoneId": "Asia/Kolkata"})
    _look(browser, 1280)
    browser.get(page.as_uri())
    yield browser
    assert _said(browser, "browser") == []


def _said(browser: Chrome, kind: str) -> list[dict[str, Any]]:
    """What has come into a log of the browser since the last look."""
    entries: list[dict[str, Any]] = browser.get_log(kind)  # type: ignore[no-untyped-call]
    return entries


def _look(browser: Chrome, width: int, *, scheme: str = "light", media: str = "") -> None:
    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": media, "features": features})


def _all(within: Chrome | WebElement, selector: str) -> list[WebElement]:
    return within.find_elements(By.CSS_SELECTOR, selector)


def _one(within: Chrome | WebElement, selector: str) -> WebElement:
    return within.find_element(By.CSS_SELECTOR, selector)


def _rows(browser: Chrome, selector: str) -> list[list[str]]:
    """The texts of a table's cells, all at once, as each question to the browser takes its time."""
    rows: list[list[str]] = browser.execute_script(
        "return [...document.querySelectorAll(arguments[0] + ' tbody tr')]"
        ".map((row) => [...row.children].map((cell) => cell.textContent))",
        selector,
    )
    return rows


def _records(browser: Chrome) -> list[list[str]]:
    return _rows(browser, "#record-table")


def _headings(browser: Chrome) -> dict[str, WebElement]:
    return {th.text.rstrip(" ▲▼"): th for th in _all(browser, "#record-table thead th")}


def test_numbers_are_those_of_stats(shown: Chrome, log: Path) -> None:
    stats = json.loads(_log("stats", "--json", log))
    for button in _all(shown, "#operations .more-rows button"):
        button.click()
    rows = {row[0]: row for row in _rows(shown, "#operations")}
    titles = {
        row[0]: row[1:]
        for row in shown.execute_script(
            "return [...document.querySelectorAll('#operations tbody tr')]"
            ".map((row) => [...row.children].map((cell) => cell.title || cell.textContent))"
        )
    }
    assert rows.keys() == {group["op"] for group in stats["groups"]}
    for group in stats["groups"]:
        count, errors, read, written, p50, *_, total = titles[group["op"]]
        assert (count, errors) == (f"{group['count']:,}", f"{group['errors']:,}")
        assert read == f"{group['bytes_read']:,} bytes"
        assert written == f"{group['bytes_written']:,} bytes"
        assert (p50, total) == (f"{group['p50_us']:,} µs", f"{group['total_us']:,} µs")
    tiles = dict(zip(
        (one.text for one in _all(shown, "#tiles dt")),
        (one.text for one in _all(shown, "#tiles .number")),
        strict=True,
    ))  # fmt: skip
    assert tiles["Operations"] == f"{stats['count']:,}"
    assert tiles["Failed"] == f"{sum(one['errors'] for one in stats['groups']):,}"
    assert tiles["Not recorded"] == f"{stats['lost']:,}" == "321"
    trouble = _one(shown, "#trouble").text
    assert "321 operations could not be recorded" in trouble
    assert "1 record missing" in trouble
    assert "number 6000" in trouble
    assert "data" in shown.title


def test_names_do_nothing(shown: Chrome) -> None:
    text = shown.execute_script("return document.body.innerText")
    for name in NAMES[:2]:
        assert name.decode() in text
    assert r"\u202egnp.exe" in text
    assert r"\x1b[31mred\x07\nline" in text
    assert r"latin-\xe9" in text
    assert "</script><script>window.hacked=1" in text
    assert shown.execute_script("return window.hacked") is None
    assert _all(shown, "main :is(img, iframe, object, embed, script, link, style)") == []
    assert len(_all(shown, "script")) == 2
    assert "\u202e" not in text
    assert "\x1b" not in text


def test_the_page_loads_nothing_and_may_not(shown: Chrome) -> None:
    messages = [json.loads(entry["message"])["message"] for entry in _said(shown, "performance")]
    requested = {
        message["params"]["request"]["url"]
        for message in messages
        if message["method"] == "Network.requestWillBeSent"
    }
    assert {url.partition(":")[0] for url in requested} <= {"file", "data"}
    assert {url for url in requested if url.startswith("file:")} == {shown.current_url}
    refused = shown.execute_async_script(
        """const done = arguments[0];
        const refused = [];
        document.addEventListener("securitypolicyviolation",
          (event) => refused.push(event.effectiveDirective));
        try { document.body.innerHTML = "<b>x</b>"; } catch { refused.push("html"); }
        const script = document.createElement("script");
        try { script.src = "data:text/javascript,1"; } catch { refused.push("script"); }
        fetch("http://127.0.0.1:9/").catch(() => {
          const image = new Image();
          image.onerror = () => setTimeout(() => done(refused), 50);
          image.src = "http://127.0.0.1:9/x.png";
        });"""
    )
    assert {"html", "script", "connect-src", "img-src"} <= set(refused)
    # What was refused was said on the console, as it should be.
    assert len(_said(shown, "browser")) >= 2


def test_search_sort_and_pages(shown: Chrome) -> None:
    found = _one(shown, "#found")
    total = int(found.text.split()[0].replace(",", ""))
    assert 15_000 < total <= 20_000
    note = _one(shown, "#records-note").text
    assert f"{total:,} records" in note
    assert "fusevol log show " in note
    # The newest first: what the real mount did.
    assert [int(row[-1]) for row in _records(shown)[:3]] == sorted(
        (int(row[-1]) for row in _records(shown)[:3]), reverse=True
    )
    _one(shown, "#next").click()
    assert _one(shown, "#page").text.startswith("Page 2 of ")

    words = _one(shown, "#words")
    words.send_keys("GNP create")
    assert [row[1] for row in _records(shown)] == ["create"]
    assert r"/\u202egnp.exe" in _records(shown)[0]
    assert found.text == f"1 of {total:,} records"
    assert _one(shown, "#page").text == "Page 1 of 1"
    _one(shown, "#search [type=reset]").click()
    assert words.get_property("value") == ""

    Select(_one(shown, "#by-result")).select_by_visible_text("all failed")
    results = {row[3] for row in _records(shown)}
    # Also the old one, which is none of the newest.
    assert {"EIO", "ENOTEMPTY"} <= results
    assert "ok" not in results
    Select(_one(shown, "#by-result")).select_by_visible_text("all")

    Select(_one(shown, "#by-op")).select_by_value("=read")
    heading = _headings(shown)["Took"]
    for order, reverse in (("descending", True), ("ascending", False)):
        _one(heading, "button").click()
        assert heading.get_attribute("aria-sort") == order
        took = [int(row[4].split()[0]) for row in _records(shown)]
        assert took == sorted(took, reverse=reverse)
    sorted_ones = _all(shown, "#record-table [aria-sort]:not([aria-sort=none])")
    assert sorted_ones == [heading]
    assert {row[1] for row in _records(shown)} == {"read"}


def test_times_in_the_readers_zone_or_utc(shown: Chrome) -> None:
    time = _one(shown, "#record-table time")
    local = time.text
    iso = str(time.get_attribute("datetime"))
    assert _one(shown, "#zone").text == "local time (Asia/Calcutta)"
    _one(shown, "[name=zone][value=utc]").click()
    utc = _one(shown, "#record-table time").text
    assert utc == iso.replace("T", " ").rstrip("Z")
    minutes = [int(text[11:13]) * 60 + int(text[14:16]) for text in (local, utc)]
    assert (minutes[0] - minutes[1]) % (24 * 60) == 5 * 60 + 30


def test_by_keyboard_only(shown: Chrome) -> None:
    def press(*keys: str) -> WebElement:
        ActionChains(shown).send_keys(*keys).perform()
        return shown.switch_to.active_element

    first = press(Keys.TAB)
    assert first.text == "Skip to the report"
    assert first.location["x"] >= 0
    assert press(Keys.ENTER).get_attribute("id") == "main"
    seen = []
    for _ in range(60):
        element = press(Keys.TAB)
        style = shown.execute_script("return getComputedStyle(arguments[0]).outlineStyle", element)
        assert style != "none", element.get_attribute("outerHTML")
        seen.append(element)
        if element.get_attribute("type") == "range":
            break
    slider = seen[-1]
    assert slider.get_attribute("type") == "range"
    before = slider.get_attribute("aria-valuetext")
    press(Keys.HOME)
    assert slider.get_attribute("aria-valuetext") != before
    assert "operation" in str(slider.get_attribute("aria-valuetext"))
    assert press(Keys.TAB).text == "Show its records"
    button = press(Keys.ENTER)
    assert button.text == "Show all times"
    assert "of" in _one(shown, "#found").text
    assert 0 < len(_records(shown)) <= 50
    press(Keys.ENTER)
    assert "of" not in _one(shown, "#found").text
    heading = _headings(shown)["Path"]
    shown.execute_script("arguments[0].focus()", _one(heading, "button"))
    press(Keys.SPACE)
    assert heading.get_attribute("aria-sort") == "ascending"


def test_for_screen_readers(shown: Chrome) -> None:
    problems: list[str] = shown.execute_script(
        """const problems = [];
        const named = (element) => element.getAttribute("aria-label")
          || document.getElementById(element.getAttribute("aria-labelledby"))?.textContent
          || [...element.labels ?? []].map((label) => label.textContent).join("").trim()
          || element.textContent.trim();
        const check = (selector, good) => {
          const found = [...document.querySelectorAll(selector)];
          if (!found.length) problems.push(`none: ${selector}`);
          for (const one of found) if (!good(one)) problems.push(one.outerHTML.slice(0, 200));
        };
        check("main > section, nav, svg, button, input, select", named);
        check("table", (table) => table.caption?.textContent.trim());
        check("thead th", (th) => th.scope === "col" && th.ariaSort && th.textContent);
        check("tbody tr", (tr) => tr.querySelectorAll("th[scope=row]").length === 1);
        check("svg", (svg) => svg.getAttribute("role") === "img");
        check("html", (html) => html.lang === "en");
        let level = 1;
        for (const heading of document.querySelectorAll("h1, h2, h3")) {
          const next = Number(heading.tagName[1]);
          if (next > level + 1) problems.push(heading.outerHTML);
          level = next;
        }
        const ids = [...document.querySelectorAll("[id]")].map((element) => element.id);
        if (new Set(ids).size !== ids.length) problems.push("ids");
        return problems;"""
    )
    assert problems == []
    assert len(_all(shown, "h1")) == 1
    assert _one(shown, "#found").get_attribute("role") == "status"
    table = _one(shown, "#activity details")
    _one(table, "summary").click()
    wait_until(lambda: len(_rows(shown, "#activity details")) >= 5, "the charts as a table")


_CONTRASTS: Final = """
const light = (text) => {
  const [red, green, blue] = text.match(/[\\d.]+/g).map(Number).map((value) => value / 255)
    .map((value) => (value <= 0.03928 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4));
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
};
const ground = (element) => {
  for (; element; element = element.parentElement) {
    const color = getComputedStyle(element).backgroundColor;
    if (!/, 0\\)$/.test(color)) return color;
  }
  return "rgb(255, 255, 255)";
};
return [...document.querySelectorAll(
  "h1, h2, a, p, dt, dd, th, td, label, button, strong, summary")]
  .filter((element) => element.checkVisibility() && element.textContent && !element.disabled)
  .map((element) => {
    const pair = [light(getComputedStyle(element).color), light(ground(element))].sort();
    const [dark, bright] = pair.sort((one, other) => one - other);
    return [(bright + 0.05) / (dark + 0.05), element.outerHTML.slice(0, 100)];
  });
"""


def test_light_and_dark(shown: Chrome) -> None:
    grounds = []
    for scheme in ("light", "dark"):
        _look(shown, 1280, scheme=scheme)
        contrasts: list[tuple[float, str]] = shown.execute_script(_CONTRASTS)
        assert len(contrasts) > 100
        assert min(contrasts)[0] >= 4.5, min(contrasts)
        grounds.append(
            shown.execute_script("return getComputedStyle(document.body).backgroundColor")
        )
    assert [max(map(int, one[4:-1].split(", "))) > 128 for one in grounds] == [True, False]


def test_on_a_phone(shown: Chrome) -> None:
    _look(shown, 320)
    shown.refresh()
    for _ in range(2):
        width, beyond = shown.execute_script(
            """return [document.documentElement.scrollWidth,
              [...document.querySelectorAll("body *")].filter((element) => {
                const box = element.getBoundingClientRect();
                return box.width > 1 && (box.right > 321 || box.left < -1)
                  && !element.matches(".skip");
              }).map((element) => element.outerHTML.slice(0, 150))]"""
        )
        assert width <= 320
        assert beyond == []
        for button in _all(shown, ".more-rows button"):
            shown.execute_script("arguments[0].click()", button)
        _one(shown, "#words").send_keys("long")
    assert any("long" * 60 in row[2] for row in _records(shown))


def test_on_paper(shown: Chrome) -> None:
    _look(shown, 1280, media="print")
    hidden = ("header nav", "#search", "#pages", ".scrub")
    assert [one for name in hidden for one in _all(shown, name) if one.is_displayed()] == []
    assert _one(shown, "#record-table table").is_displayed()
    pdf: dict[str, Any] = shown.execute_cdp_cmd("Page.printToPDF", {"pageRanges": "1-2"})
    assert pdf["data"].startswith("JVBERi")
    _look(shown, 1280)
