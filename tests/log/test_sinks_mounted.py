"""What is done on a volume, from its log to a real journald and a real rsyslogd."""

import json
from pathlib import Path

from fusevol.record.record import decode
from tests.log.receivers import journal, rsyslog
from tests.served import needs_root, serve

HOSTILE = "a\n\x1b]0;pwned\x07 \u202e]\\\"'\x7f"


@needs_root
def test_all_is_there(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("journal", "syslog", "volume")]
    for folder in folders:
        folder.mkdir()
    with journal(folders[0]) as journald, rsyslog(folders[1]) as rsyslogd:
        sinks = f"journald:{journald.socket}+syslog:{rsyslogd.stream}"
        with serve(folders[2], "-o", f"sinks={sinks}") as served:
            (served.mountpoint / HOSTILE).write_text("x")
            (served.mountpoint / HOSTILE).rename(served.mountpoint / "b")
            (served.mountpoint / "b").unlink()
        lines = served.log.read_bytes().splitlines()
        entries = journald.entries(len(lines))
        messages = rsyslogd.messages(len(lines))
    assert [decode(line).op for line in lines][-1] == "unmount"
    assert [message["message"].encode() for message in messages] == [
        json.dumps(json.loads(line), separators=(",", ":")).replace("\x7f", "\\u007f").encode()
        for line in lines
    ]
    assert [
        {
            name.removeprefix("FUSEVOL_").lower(): value.decode()
            for name, value in entry.items()
            if name.startswith("FUSEVOL_")
        }
        for entry in entries
    ] == [{key: str(value) for key, value in json.loads(line).items()} for line in lines]
