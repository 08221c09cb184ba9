"""`fusevol log verify`: is a chained log as it was written?"""

import os
from collections.abc import Iterator

import click
import msgspec

from fusevol.cli.log.output import rotated_option
from fusevol.cli.options import source_options
from fusevol.errors import EXIT_FAILED, NotFoundError, UsageError
from fusevol.logs.lines import STDIN
from fusevol.logs.parallel import usable_processors
from fusevol.names import decode_name
from fusevol.proof import keys
from fusevol.proof.findings import Finding, Tampering
from fusevol.proof.judges import Judge, PublicJudge, SecretJudge
from fusevol.proof.keys import PublicKey
from fusevol.proof.ledger import Head, Ledger, Mark, check_signatures, heads_of
from fusevol.proof.verifier import Question, Report
from fusevol.proof.verifier import verify as verify_log
from fusevol.record.links import Links
from fusevol.terminal import printable


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@click.option(
    "--public-key", metavar="FILE",
    help="Check only the signatures of checkpoints, with this key (see fusevol log key); does not "
    "need the secret key.",
)  # fmt: skip
@click.option(
    "--since-seq", "since", type=click.IntRange(min=1), metavar="N",
    help="Trust record N and verify from there on; older records may be missing.",
)  # fmt: skip
@rotated_option
@source_options
@click.pass_context
def verify(
    context: click.Context,
    sources: list[str],
    volume: str,
    as_json: bool,
    public_key: str | None,
    since: int | None,
    rotated: bool,
) -> None:
    """Verify that a chained log is exactly as it was written.

    FILE is the log of a mount or volume with the option chain; its rotated and compressed files
    belong to it. Reports the first record that was changed, removed, inserted or moved. The exit
    code is 0 if there is none, 1 otherwise.

    For a copy of a log in another place, a missing end is only noticed if you name the volume:
    --volume NAME.

    \b
      fusevol log verify --volume data
      fusevol log verify --since-seq 120000 /var/log/fusevol/data.log
      fusevol log verify --public-key web1.pem copy-of-data.log
    """
    if STDIN in sources:
        raise UsageError("cannot verify standard input; name the log file")
    question = Question(sources, rotated, volume, since or 0)
    if public_key is not None:
        public = PublicKey.load(public_key)
        report = verify_log(question, PublicJudge(public), lambda: (None, []), usable_processors())
    else:
        report = _verified_by_secret(question)
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(report), indent=2))
    else:
        for line in _told(report, with_secret=public_key is None):
            click.echo(printable(line))
    if report.finding is not None:
        context.exit(EXIT_FAILED)


def _verified_by_secret(question: Question) -> Report:
    try:
        secret = keys.load()
    except NotFoundError:
        raise NotFoundError(
            f"no chain key at {keys.key_path()}; verify on the host that wrote the log, or check "
            f"only the signatures, with the public key of that host: --public-key FILE"
        ) from None
    public = secret.public()

    def kept() -> tuple[Head | None, list[Mark]]:
        ledger = _ledger(question)
        head, marks = (ledger.head(), ledger.marks()) if ledger is not None else (None, [])
        check_signatures(public, head, marks)
        return head, marks

    judge: Judge = SecretJudge(Links(secret.links))
    return verify_log(question, judge, kept, usable_processors())


def _ledger(question: Question) -> Ledger | None:
    """Return what is kept of the log, by its place or else by its volume."""
    for path in question.paths:
        ledger = Ledger(path)
        if ledger.head() is not None:
            return ledger
    heads = list(heads_of(question.volume)) if question.volume else []
    return Ledger(os.fsdecode(decode_name(heads[0].log))) if len(heads) == 1 else None


def _told(report: Report, *, with_secret: bool) -> Iterator[str]:
    finding = report.finding
    if finding is not None:
        yield _sentence(finding)
    elif with_secret:
        yield (
            f"{report.records} records of volume {report.volume}, up to number "
            f"{report.last_seq}, are as they were written"
        )
    else:
        yield (
            f"{report.records} records of volume {report.volume}, up to number "
            f"{report.last_seq}: none is missing, and the signatures of {report.checkpoints} "
            f"checkpoints are valid; the contents of other records were not checked, as that "
            f"requires the secret key"
        )
    yield from _notes(report, with_secret=with_secret)


def _sentence(finding: Finding) -> str:
    where = f"{finding.file}:{finding.line}"
    seq, until = finding.seq, finding.until
    several = f"records {seq} to {until}" if until not in (None, seq) else f"record {seq}"
    what = {
        Tampering.CHANGED: f"record {seq} was changed",
        Tampering.REMOVED: f"{several} missing here",
        Tampering.INSERTED: f"inserted before record {seq}",
        Tampering.REORDERED: f"record {seq} was moved",
        Tampering.CUT: f"the end was cut off, {several} missing",
        Tampering.REPLACED: "the log was replaced by another",
    }[finding.kind]
    return f"{where}: {what}" + (f" ({finding.detail})" if finding.detail else "")


def _notes(report: Report, *, with_secret: bool) -> Iterator[str]:
    for first, last in report.removed:
        yield f"records {first} to {last} were removed by fusevol, as its retention options say"
    if report.begun_at:
        yield f"the chain begins with record {report.begun_at}; records before it are not covered"
    for first, last in report.off:
        yield f"chaining was off from record {first} to {last}; these records are not covered"
    for path, line in report.torn:
        yield f"{path}:{line}: incomplete record, left by a crash or a full disk"
    if with_secret and report.finding is None and not report.newest:
        yield (
            "the newest checkpoint is not known on this host: a missing end of the log would not "
            "be noticed"
        )
