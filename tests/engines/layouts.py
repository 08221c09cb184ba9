"""Images written by hand: layers of any members, in an OCI image layout."""

import hashlib
import io
import json
import os
import tarfile
from pathlib import Path
from typing import Any


def layer(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for info, content in members:
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return data.getvalue()


def entry(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", content: bytes = b"",
          **fields: Any) -> tuple[tarfile.TarInfo, bytes]:  # fmt: skip
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode = kind, link, 0o755 if kind == tarfile.DIRTYPE else 0o644
    for key, value in fields.items():
        setattr(info, key, value)
    return info, content


def image(directory: Path, base: bytes, *layers: bytes, **settings: Any) -> str:
    """Write an OCI layout by hand; return `oci:DIR`."""
    blobs = directory / "blobs/sha256"
    blobs.mkdir(parents=True)

    def put(data: bytes, kind: str) -> dict[str, Any]:
        digest = hashlib.sha256(data).hexdigest()
        (blobs / digest).write_bytes(data)
        return {"mediaType": f"application/vnd.oci.image.{kind}", "digest": f"sha256:{digest}",
                "size": len(data)}  # fmt: skip

    tars = [put(data, "layer.v1.tar") for data in (base, *layers)]
    config = {"architecture": "amd64" if os.uname().machine == "x86_64" else "arm64", "os": "linux",
              "rootfs": {"type": "layers", "diff_ids": [one["digest"] for one in tars]},
              "config": settings}  # fmt: skip
    manifest = {"schemaVersion": 2, "config": put(json.dumps(config).encode(), "config.v1+json"),
                "layers": tars}  # fmt: skip
    index = {"schemaVersion": 2,
             "manifests": [put(json.dumps(manifest).encode(), "manifest.v1+json")]}  # fmt: skip
    (directory / "index.json").write_text(json.dumps(index))
    (directory / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    return f"oci:{directory}"
