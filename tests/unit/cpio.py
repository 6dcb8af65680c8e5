"""Reads what the lab writes: cpio archives of the kernel's kind."""

from __future__ import annotations


def read(archive: bytes) -> dict[str, tuple[int, bytes, tuple[int, int]]]:
    """{name: (mode, body, device)} of a "newc" archive, by the kernel's own description
    (Documentation/driver-api/early-userspace/buffer-format.rst)."""
    found, at = {}, 0
    while True:
        assert archive[at : at + 6] == b"070701"
        fields = [int(archive[at + 6 + 8 * i : at + 14 + 8 * i], 16) for i in range(13)]
        size, name_size = fields[6], fields[11]
        name = archive[at + 110 : at + 110 + name_size]
        assert name.endswith(b"\0")
        body_at = (at + 110 + name_size + 3) // 4 * 4
        body = archive[body_at : body_at + size]
        at = (body_at + size + 3) // 4 * 4
        if name == b"TRAILER!!!\0":
            assert at == len(archive)
            return found
        found[name[:-1].decode()] = (fields[1], body, (fields[9], fields[10]))
