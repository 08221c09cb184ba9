"""The INIT reply: what fusevol adds to libfuse's, byte by byte."""

import struct

from fusevol.protocol.init import WANTED, Flag, amend_reply, offered

_ALL = (1 << 64) - 1


def _request(flags: int) -> bytes:
    header = struct.pack("<IIQQIIIHH", 104, 26, 2, 0, 0, 0, 0, 0, 0)
    body = struct.pack("<IIIII", 7, 45, 131072, flags & 0xFFFFFFFF, flags >> 32)
    return header + body + bytes(44)


def _reply(flags: int, bytes_of_body: int = 64) -> bytes:
    body = struct.pack("<IIIIHHII", 7, 38, 131072, flags, 0, 0, 1 << 20, 1)
    body = body.ljust(bytes_of_body, b"\0")[:bytes_of_body]
    return struct.pack("<IiQ", 16 + len(body), 0, 2) + body


def test_wanted_flags_are_added_where_the_kernel_offers_them() -> None:
    reply, taken = amend_reply(_request(_ALL), _reply(1), WANTED)
    assert taken & WANTED == WANTED
    _, _, _, low = struct.unpack_from("<IIII", reply, 16)
    (high,) = struct.unpack_from("<I", reply, 16 + 32)
    assert low | high << 32 == taken
    assert low & 1, "what libfuse took stays taken"
    assert low & Flag.INIT_EXT, "else the kernel does not look at the upper flags"


def test_nothing_is_taken_that_is_not_offered() -> None:
    _, taken = amend_reply(_request(Flag.DONT_MASK), _reply(0), WANTED)
    assert taken == Flag.DONT_MASK


def test_upper_flags_count_only_with_the_flag_that_announces_them() -> None:
    without = int(Flag.DIRECT_IO_ALLOW_MMAP)
    assert offered(_request(without)) == 0
    assert offered(_request(without | Flag.INIT_EXT)) & Flag.DIRECT_IO_ALLOW_MMAP


def test_the_reply_is_whole_and_answers_the_request() -> None:
    reply, _ = amend_reply(_request(_ALL), _reply(0, bytes_of_body=24), WANTED)
    length, error, unique = struct.unpack_from("<IiQ", reply)
    assert (length, error, unique) == (80, 0, 2)
    assert len(reply) == 80
    max_background, congestion, max_write = struct.unpack_from("<HHI", reply, 16 + 16)
    assert max_background > congestion > 12
    assert max_write == 1 << 20


def test_flags_that_change_the_layout_of_messages_are_never_wanted() -> None:
    setxattr_ext, security_ctx, create_supp_group = 1 << 29, 1 << 32, 1 << 34
    assert not WANTED & (setxattr_ext | security_ctx | create_supp_group)
