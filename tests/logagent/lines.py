"""Records of a log that nobody had to be watched for."""

from fusevol.record.record import AccessRecord, encode


def record(seq: int) -> AccessRecord:
    return AccessRecord(
        time=f"2026-11-24T10:{seq // 60 % 60:02d}:{seq % 60:02d}.000000Z", seq=seq, volume="data",
        op="getattr", path=f"/{'x' * (seq % 50)}{seq}", result="ok", us=seq,
    )  # fmt: skip


def lines(first: int, last: int) -> bytes:
    return b"".join(encode(record(seq)) + b"\n" for seq in range(first, last + 1))
