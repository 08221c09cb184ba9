"""`fusevol commit`: images that podman, docker, skopeo and umoci take, and nothing of a volume."""

import gzip
import json
import os
import re
import shutil
import signal
import subprocess
import tarfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from fusevol.containers.cgroup import is_frozen
from tests.engines.docker import Docker
from tests.engines.image import Image
from tests.engines.machine import command, workspace
from tests.engines.podman import Podman, podman_with
from tests.engines.rootfs import ORIGINAL
from tests.served import FUSEVOL, needs_root, wait_until

pytestmark = needs_root

SECRET: Final = f"secret-{os.urandom(16).hex()}"
EPOCH: Final = 1_600_000_000


@dataclass
class Site:
    """fusevol with directories of its own, and an image to make containers of."""

    directory: Path
    image: str
    env: dict[str, str]

    def cli(self, *words: str | Path, **env: str) -> "subprocess.CompletedProcess[str]":
        return command(FUSEVOL, *words, env={**self.env, **env})

    def refused(self, *words: str | Path, **env: str) -> tuple[int, str]:
        """Run a command that has to fail with one line; return its status and that line."""
        done = command(FUSEVOL, *words, env={**self.env, **env}, check=False)
        assert done.returncode != 0, f"{words} succeeded: {done.stdout}"
        assert done.stderr.count("\n") == 1, done.stderr
        assert done.stdout == ""
        return done.returncode, done.stderr.strip()

    def run(self, name: str, script: str, *words: str | Path) -> str:
        """Run a container of the image to its end and keep it."""
        words = ("--name", name, "--image", self.image, *words)
        self.cli("run", *words, "--", "sh", "-c", script)
        return name

    def run_image(self, image: str, script: str) -> str:
        """Run a script in a new container of an image; return what it printed."""
        return self.cli("run", "--rm", "--image", image, "--", "sh", "-c", script).stdout.strip()

    @contextmanager
    def running(self, name: str, script: str) -> Iterator[dict[str, Any]]:
        """A container inside the block that runs a script, after it has printed a line."""
        words = [FUSEVOL, "run", "--rm", "--name", name, "--image", self.image, "--", "sh", "-c"]
        with subprocess.Popen(
            [*words, script], env={**os.environ, **self.env}, stdout=subprocess.PIPE
        ) as process:
            try:
                assert process.stdout
                assert process.stdout.readline()
                found = json.loads(self.cli("ps", "--json").stdout)
                yield next(one for one in found if one["name"] == name)
            finally:
                self.cli("rm", "--force", name)


@pytest.fixture(scope="module")
def site(oci_image: str) -> Iterator[Site]:
    with workspace("commit") as directory:
        names = ("state", "runtime", "log")
        for name in names:
            (directory / name).mkdir(mode=0o700)
        env = {f"FUSEVOL_{name.upper()}_DIRECTORY": str(directory / name) for name in names}
        yield Site(directory, oci_image, env)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("source")
    (directory / "file").write_text(SECRET)
    (directory / "inner").mkdir()
    return directory


@pytest.fixture(scope="module")
def changed(site: Site, source: Path) -> str:
    """A container with volumes at a new place and at one where the image has a file."""
    return site.run(
        "changed",
        "cat /mnt/new/file /mnt/new/file >/mnt/new/twice; cp /mnt/new/file /data/copy 2>/dev/null;"
        "echo beside >/mnt/beside; rm -r /root; mkdir /root; echo new >/root/new; rm /etc/group",
        "-v", f"{source}:/mnt/new", "-v", f"{source}:/data",
        "-v", f"{source}/file:/etc/settings",
    )  # fmt: skip


@pytest.fixture(scope="module")
def podman(rootfs: Path) -> Iterator[Podman]:
    with podman_with("crun", rootfs, Path("/nonexistent")) as podman:
        yield podman


SHOW: Final = (
    "cat /mnt/beside /root/new; ls -A /mnt/new | wc -l; ls /data; wc -c </etc/settings;"
    "test -e /etc/group || echo none"
)
SHOWN: Final = ["beside", "new", "0", "original", "0", "none"]


def holds_secret(archive: Path) -> bool:
    """Tell whether a byte of the volume is in an archive, or in a layer in it."""
    with tarfile.open(archive) as whole:
        for member in whole:
            file = whole.extractfile(member)
            data = file.read() if file else b""
            if data[:2] == b"\x1f\x8b":
                data = gzip.decompress(data)
            if SECRET.encode() in data:
                return True
    return False


def index_of(layout: Path) -> dict[str, dict[str, Any]]:
    """Return the entries of a layout by their tags."""
    entries = json.loads((layout / "index.json").read_text())["manifests"]
    return {one["annotations"]["org.opencontainers.image.ref.name"]: one for one in entries}


def blob(layout: Path, digest: str) -> Any:
    return json.loads((layout / "blobs" / digest.replace(":", "/")).read_text())


# --- what is in the image --------------------------------------------------------------------


def test_a_layout_holds_the_changes_and_what_was_left_out_is_said(
    site: Site, changed: str, source: Path, tmp_path: Path
) -> None:
    done = site.cli("commit", changed, f"oci:{tmp_path}/out:one", "-m", "why", "-a", "Me <me@x>")
    assert done.stderr.splitlines() == [
        f"left out: volume {source} at /mnt/new (in the image: an empty directory)",
        f"left out: volume {source} at /data (in the image: what the volume covered)",
        f"left out: volume {source}/file at /etc/settings (in the image: an empty file)",
    ]
    assert site.run_image(f"oci:{tmp_path}/out:one", SHOW).split() == SHOWN
    entry = index_of(tmp_path / "out")["one"]
    assert entry["digest"] == done.stdout.strip()
    seen = json.loads(command("skopeo", "inspect", f"oci:{tmp_path}/out:one").stdout)
    assert seen["Digest"] == entry["digest"]
    manifest = blob(tmp_path / "out", entry["digest"])
    config = blob(tmp_path / "out", manifest["config"]["digest"])
    base = manifest["annotations"]["org.opencontainers.image.base.digest"]
    assert f"{base}" in site.image or base.startswith("sha256:")
    assert config["author"] == "Me <me@x>"
    last = config["history"][-1]
    assert (last["comment"], last["author"]) == ("why", "Me <me@x>")
    assert last["created_by"].startswith("fusevol commit (sh -c cat /mnt/new/file")
    filled = [one for one in config["history"] if not one.get("empty_layer")]
    assert len(filled) == len(config["rootfs"]["diff_ids"]) == len(manifest["layers"]) == 2
    assert config["config"] == {"Env": ["PATH=/bin"], "Cmd": ["/bin/sh"], "WorkingDir": "/"}
    assert manifest["annotations"]["org.opencontainers.image.created"] == config["created"]


def test_no_byte_of_a_volume_and_no_volume_is_in_the_image(
    site: Site, changed: str, source: Path, tmp_path: Path
) -> None:
    archive = tmp_path / "image.tar"
    site.cli("commit", changed, f"docker-archive:{archive}")
    assert (source / "twice").read_text() == 2 * SECRET
    assert not holds_secret(archive)
    saved = Image(archive)
    assert "Volumes" not in saved.config["config"]
    assert saved.entries()["mnt/new"][-1].isdir()
    assert saved.below("/mnt/new") == []
    assert saved.below("/data") == ["data/original"]
    assert saved.content("/data/original") == ORIGINAL.encode()


def test_json_says_the_same(site: Site, changed: str, source: Path, tmp_path: Path) -> None:
    done = site.cli("commit", changed, f"oci:{tmp_path}/out", "--json")
    said = json.loads(done.stdout)
    entry = index_of(tmp_path / "out")["latest"]
    assert said["digest"] == entry["digest"]
    assert said["config"] == blob(tmp_path / "out", entry["digest"])["config"]["digest"]
    assert said["consistent"] is True
    assert said["left_out"][0] == {
        "volume": str(source), "destination": "/mnt/new", "mount_point": "an empty directory",
    }  # fmt: skip
    assert done.stderr == ""


def test_what_the_container_put_below_a_mount_point_belongs_to_the_image(
    site: Site, source: Path, tmp_path: Path
) -> None:
    """As with docker commit: the volume hid it, the container's root has it."""
    first = f"oci:{tmp_path}/out:first"
    site.cli("commit", site.run("before", "mkdir /v; echo below >/v/below"), first)
    site.cli("run", "--name", "over", "--image", first, "-v", f"{source}:/v", "--", "ls", "/v")
    done = site.cli("commit", "over", f"oci:{tmp_path}/out:second")
    assert "at /v (in the image: what the volume covered)" in done.stderr
    assert site.run_image(f"oci:{tmp_path}/out:second", "ls /v; cat /v/below") == "below\nbelow"


def test_settings_can_be_changed(site: Site, changed: str, tmp_path: Path) -> None:
    image = f"oci:{tmp_path}/out"
    site.cli(
        "commit", changed, image, "-c", 'CMD ["-c", "echo $A $PWD; id -u"]',
        "-c", 'ENTRYPOINT ["/bin/sh"]', "-c", "ENV A=1", "--change", "WORKDIR /mnt",
        "-c", "USER user", "-c", "LABEL x=y",
    )  # fmt: skip
    assert site.cli("run", "--rm", "--image", image).stdout.split() == ["1", "/mnt", "1000"]
    seen = json.loads(command("skopeo", "inspect", f"{image}:latest").stdout)
    assert seen["Labels"] == {"x": "y"}


def test_a_container_of_a_directory_gives_an_image_that_runs_by_itself(
    site: Site, rootfs: Path, source: Path, tmp_path: Path
) -> None:
    words = ("--rootfs", rootfs, "-v", f"{source}:/mnt/v", "--", "sh", "-c")
    site.cli("run", "--name", "of-rootfs", *words, "rm /etc/group; echo $0 ran >/mnt/beside")
    site.cli("commit", "of-rootfs", f"oci:{tmp_path}/out")
    image = f"oci:{tmp_path}/out:latest"
    said = site.run_image(image, "cat /data/original /mnt/beside; ls -A /mnt/v /etc")
    assert said.splitlines() == [
        *ORIGINAL.splitlines(), "sh ran", "/etc:", "passwd", "", "/mnt/v:",
    ]  # fmt: skip
    assert site.cli("run", "--rm", "--image", image).returncode == 0, "the command is kept"
    command("umoci", "unpack", "--image", f"{tmp_path}/out:latest", tmp_path / "bundle")
    assert (tmp_path / "bundle/rootfs/data/original").read_text() == ORIGINAL


# --- forms -----------------------------------------------------------------------------------


def test_docker_loads_both_archives_and_runs_the_image(
    site: Site, changed: str, docker: Docker, tmp_path: Path
) -> None:
    site.cli("commit", changed, f"docker-archive:{tmp_path}/d.tar:web:1")
    assert docker.cli("load", "--input", tmp_path / "d.tar") == "Loaded image: web:1"
    assert docker.run("--rm", "web:1", "sh", "-c", SHOW).split() == SHOWN
    done = site.cli(
        "commit", changed, f"oci-archive:{tmp_path}/o.tar:example.com:5000/web", "--json"
    )
    loaded = docker.cli("load", "--input", tmp_path / "o.tar")
    assert loaded == "Loaded image: example.com:5000/web:latest"
    assert docker.run("--rm", "example.com:5000/web", "sh", "-c", SHOW).split() == SHOWN
    (image,) = json.loads(docker.cli("image", "inspect", "example.com:5000/web"))
    assert image["Id"] == json.loads(done.stdout)["config"]
    site.cli("commit", changed, f"oci-archive:{tmp_path}/n.tar")
    assert docker.cli("load", "--input", tmp_path / "n.tar").startswith("Loaded image ID: sha256:")


def test_podman_loads_both_archives_and_runs_the_image(
    site: Site, changed: str, podman: Podman, tmp_path: Path
) -> None:
    site.cli("commit", changed, f"docker-archive:{tmp_path}/d.tar:web:1")
    assert "docker.io/library/web:1" in podman.cli("load", "--input", tmp_path / "d.tar")
    assert podman.run("--rm", "docker.io/library/web:1", "sh", "-c", SHOW).split() == SHOWN
    site.cli("commit", changed, f"oci-archive:{tmp_path}/o.tar:example.com/web:2")
    assert "example.com/web:2" in podman.cli("load", "--input", tmp_path / "o.tar")
    assert podman.run("--rm", "example.com/web:2", "sh", "-c", SHOW).split() == SHOWN
    site.cli("commit", changed, f"oci:{tmp_path}/out:3")
    podman.cli("pull", f"oci:{tmp_path}/out:3")


@pytest.mark.parametrize("form", ["oci", "oci-archive", "docker-archive"])
def test_skopeo_copies_every_form(site: Site, changed: str, form: str, tmp_path: Path) -> None:
    place = f"{form}:{tmp_path}/image:example.com/web:2"
    if form == "oci":
        place = f"{form}:{tmp_path}/image:2"
    site.cli("commit", changed, place)
    command("skopeo", "copy", place, f"oci:{tmp_path}/copy:2")
    assert site.run_image(f"oci:{tmp_path}/copy:2", SHOW).split() == SHOWN


def test_every_archive_is_taken_as_either(site: Site, changed: str, tmp_path: Path) -> None:
    site.cli("commit", changed, f"docker-archive:{tmp_path}/a.tar:web:1")
    for form in ("oci-archive", "docker-archive"):
        for name in ("", ":web:1"):
            command("skopeo", "inspect", f"{form}:{tmp_path}/a.tar{name}")
    with tarfile.open(tmp_path / "a.tar") as archive:
        names = archive.getnames()
    assert len(names) == len(set(names))
    assert {"oci-layout", "index.json", "manifest.json"} < set(names)


def test_an_archive_goes_to_standard_output(site: Site, changed: str, tmp_path: Path) -> None:
    with (tmp_path / "a.tar").open("wb") as file:
        done = subprocess.run(
            [FUSEVOL, "commit", changed, "oci-archive:-:t"], stdout=file, stderr=subprocess.PIPE,
            env={**os.environ, **site.env, "TMPDIR": str(tmp_path)}, check=True,
        )  # fmt: skip
    seen = json.loads(command("skopeo", "inspect", f"oci-archive:{tmp_path}/a.tar:t").stdout)
    assert done.stderr.decode().splitlines()[-1] == seen["Digest"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tar"]


def test_an_archive_that_cannot_be_finished_leaves_the_old_one(site: Site, tmp_path: Path) -> None:
    site.run("spoilt", "echo x >/.wh.x")
    archive = tmp_path / "a.tar"
    archive.write_text("old")
    status, said = site.refused("commit", "spoilt", f"oci-archive:{archive}")
    assert (status, said.partition(",")[0]) == (5, "fusevol: .wh.x cannot be stored in a layer")
    assert archive.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["a.tar"]


# --- layouts ---------------------------------------------------------------------------------


def test_a_layout_keeps_its_other_images(site: Site, changed: str, tmp_path: Path) -> None:
    layout = tmp_path / "layout"
    _, _, base = site.image.partition(":")
    command("skopeo", "copy", f"oci:{base}", f"oci:{layout}:base")
    first = site.cli("commit", changed, f"oci:{layout}:a").stdout.strip()
    site.cli("commit", changed, f"oci:{layout}:b", "-m", "b")
    assert index_of(layout).keys() == {"base", "a", "b"}
    second = site.cli("commit", changed, f"oci:{layout}:a", "-m", "again").stdout.strip()
    assert index_of(layout).keys() == {"base", "a", "b"}
    assert index_of(layout)["a"]["digest"] == second != first
    for tag in ("base", "a", "b"):
        command("skopeo", "inspect", f"oci:{layout}:{tag}")
    assert sorted(path.name for path in layout.iterdir()) == ["blobs", "index.json", "oci-layout"]
    assert all(re.fullmatch("[0-9a-f]{64}", path.name) for path in layout.glob("blobs/sha256/*"))


def test_commits_at_the_same_time_do_not_lose_each_others_tag(
    site: Site, changed: str, tmp_path: Path
) -> None:
    tags = [f"t{number}" for number in range(8)]
    with ThreadPoolExecutor(4) as pool:
        for done in pool.map(
            lambda tag: site.cli("commit", changed, f"oci:{tmp_path}/out:{tag}"), tags
        ):
            assert done.returncode == 0
    assert index_of(tmp_path / "out").keys() == set(tags)


def test_an_image_can_take_the_tag_of_its_base_and_be_built_upon(
    site: Site, tmp_path: Path
) -> None:
    layout = tmp_path / "layout"
    _, _, base = site.image.partition(":")
    command("skopeo", "copy", f"oci:{base}", f"oci:{layout}:t")
    for name in ("one", "two"):
        words = ("--name", name, "--image", f"oci:{layout}:t", "--", "sh", "-c", f"echo >/{name}")
        site.cli("run", *words)
    site.cli("commit", "one", f"oci:{layout}:t")
    # The tag has moved; the container's own base has not.
    site.cli("commit", "two", f"oci:{layout}:u")
    assert site.run_image(f"oci:{layout}:u", "ls /one /two 2>&1 | wc -l").split() == ["2"]
    assert "No such file" in site.run_image(f"oci:{layout}:u", "ls /one 2>&1; true")
    for number in range(3):
        name = f"on-top-{number}"
        words = ("--name", name, "--image", f"oci:{layout}:t", "--", "sh", "-c", f"echo >/{name}")
        site.cli("run", *words)
        site.cli("commit", name, f"oci:{layout}:t")
    assert site.run_image(f"oci:{layout}:t", "ls -d /on* | wc -l") == "4"
    manifest = blob(layout, index_of(layout)["t"]["digest"])
    assert len(manifest["layers"]) == 5


def test_docker_types_become_ocis(site: Site, tmp_path: Path) -> None:
    """A manifest of OCI that names layers in Docker's words is refused by some."""
    layout = tmp_path / "layout"
    _, _, base = site.image.partition(":")
    command("skopeo", "copy", f"oci:{base}", f"oci:{layout}:t")
    index = json.loads((layout / "index.json").read_text())
    manifest = blob(layout, index["manifests"][0]["digest"])
    docker = "application/vnd.docker"
    manifest["mediaType"] = f"{docker}.distribution.manifest.v2+json"
    manifest["config"]["mediaType"] = f"{docker}.container.image.v1+json"
    for layer in manifest["layers"]:
        layer["mediaType"] = f"{docker}.image.rootfs.diff.tar.gzip"
    data = json.dumps(manifest).encode()
    digest = f"sha256:{command('sha256sum', input=data).stdout.split()[0]}"
    (layout / "blobs" / digest.replace(":", "/")).write_bytes(data)
    index["manifests"][0] |= {
        "digest": digest, "size": len(data), "mediaType": manifest["mediaType"],
    }  # fmt: skip
    (layout / "index.json").write_text(json.dumps(index))
    site.cli("run", "--name", "docker-typed", "--image", f"oci:{layout}:t", "--", "true")
    made = site.cli("commit", "docker-typed", f"oci:{tmp_path}/out:t").stdout.strip()
    layers = blob(tmp_path / "out", made)["layers"]
    assert {one["mediaType"] for one in layers} == {"application/vnd.oci.image.layer.v1.tar+gzip"}
    command("umoci", "unpack", "--image", f"{tmp_path}/out:t", tmp_path / "bundle")


# --- reproducible ----------------------------------------------------------------------------


def test_the_same_changes_make_the_same_image(site: Site, changed: str, tmp_path: Path) -> None:
    epoch = str(EPOCH)
    for name in ("one", "two"):
        site.cli("commit", changed, f"oci-archive:{tmp_path}/{name}.tar", SOURCE_DATE_EPOCH=epoch)
    assert (tmp_path / "one.tar").read_bytes() == (tmp_path / "two.tar").read_bytes()
    with tarfile.open(tmp_path / "one.tar") as archive:
        assert {member.mtime for member in archive} == {EPOCH}
        documents = archive.extractfile("manifest.json")
        assert documents
        file = archive.extractfile(json.load(documents)[0]["Layers"][-1])
        assert file
        # Neither a time nor a name in its header (RFC 1952).
        assert file.read(8) == b"\x1f\x8b\x08" + bytes(5)
    saved = Image(tmp_path / "one.tar")
    assert saved.config["created"] == "2020-09-13T12:26:40Z"
    assert saved.entries()["mnt/beside"][-1].mtime == EPOCH
    site.cli("commit", changed, f"oci-archive:{tmp_path}/now.tar")
    assert Image(tmp_path / "now.tar").entries()["mnt/beside"][-1].mtime > EPOCH
    status, said = site.refused(
        "commit", changed, f"oci-archive:{tmp_path}/x.tar", SOURCE_DATE_EPOCH="soon"
    )
    assert (status, said) == (
        2,
        "fusevol: invalid SOURCE_DATE_EPOCH=soon: expected a number of seconds",
    )


# --- running containers ----------------------------------------------------------------------

COUNTING: Final = """
i=0; echo 0 >/a-first; echo 0 >/z-last
dd if=/dev/urandom of=/m-large bs=1M count={megabytes} 2>/dev/null
(sleep 0.1; echo ready) &
while :; do i=$((i+1)); echo $i >/a-first.new; mv /a-first.new /a-first
echo $i >/z-last.new; mv /z-last.new /z-last; done
"""


def test_a_running_container_stands_still_meanwhile_and_goes_on(site: Site, tmp_path: Path) -> None:
    with site.running("counting", COUNTING.format(megabytes=8)):
        done = site.cli("commit", "counting", f"oci:{tmp_path}/out")
        assert done.stderr == ""
        site.cli("commit", "counting", f"oci:{tmp_path}/out:later")
    read = "cat /a-first /z-last"
    first, last = map(int, site.run_image(f"oci:{tmp_path}/out:latest", read).split())
    assert first - last in (0, 1)
    later, _ = map(int, site.run_image(f"oci:{tmp_path}/out:later", read).split())
    assert later > first, "it went on"


def test_without_a_pause_it_is_said_that_the_image_may_be_torn(site: Site, tmp_path: Path) -> None:
    with site.running("torn", COUNTING.format(megabytes=8)) as container:
        words = [FUSEVOL, "commit", "torn", f"oci:{tmp_path}/out", "--no-pause"]
        env = {**os.environ, **site.env}
        with subprocess.Popen(words, env=env, stderr=subprocess.PIPE, text=True) as process:
            while process.poll() is None:
                assert not is_frozen(container["id"])
            assert process.stderr
            said = process.stderr.read()
    assert said == (
        "fusevol: torn kept running; changes made meanwhile may be only partly in the image\n"
    )
    command("umoci", "unpack", "--image", f"{tmp_path}/out:latest", tmp_path / "bundle")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_container_goes_on_when_its_commit_is_killed(
    site: Site, number: signal.Signals, tmp_path: Path
) -> None:
    name = f"going-on-{number}"
    with site.running(name, COUNTING.format(megabytes=60)) as container:
        with subprocess.Popen(
            [FUSEVOL, "commit", name, f"oci-archive:{tmp_path}/a.tar"],
            env={**os.environ, **site.env}, start_new_session=True, stderr=subprocess.DEVNULL,
        ) as process:  # fmt: skip
            wait_until(lambda: is_frozen(container["id"]), "standstill")
            # To all of its processes, as a terminal does.
            os.killpg(process.pid, number)
            process.wait()
        wait_until(lambda: not is_frozen(container["id"]), "going on")
    if number != signal.SIGKILL:
        assert list(tmp_path.iterdir()) == [], "nothing half made is left"


# --- what is refused -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("image", "status", "said"),
    [
        ("web", 2, "invalid image 'web'; use oci:DIR[:TAG]"),
        ("docker-archive:", 2, "invalid image 'docker-archive:'"),
        ("oci:-", 2, "invalid image 'oci:-'"),
        ("docker-archive:{tmp}/a.tar:Web:1", 2, "'Web:1' is not an image name"),
        ("oci:{tmp}/out:a b", 2, "'a b' is not a tag"),
        ("oci-archive:{tmp}/none/a.tar", 2, "directory {tmp}/none does not exist; create it first"),
        ("oci-archive:{tmp}/full", 2, "{tmp}/full is a directory"),
        ("oci:{tmp}/full", 2, "{tmp}/full is neither an OCI image layout nor empty"),
        ("oci:{tmp}/file", 2, "{tmp}/file is not a directory"),
        ("oci:{tmp}/broken", 1, "{tmp}/broken/index.json cannot be read"),
        ("oci:{tmp}/odd", 1, "{tmp}/odd/index.json is not an index of images"),
        ("oci-archive:/proc/a.tar", 1, "/proc cannot be written"),
        ("oci:/proc/a", 1, "/proc/a cannot be written"),
    ],
)  # fmt: skip
def test_a_place_that_cannot_be_written_is_refused(
    site: Site, changed: str, tmp_path: Path, image: str, status: int, said: str
) -> None:
    for name, content in (("full", None), ("broken", "{"), ("odd", "[]")):
        (tmp_path / name).mkdir()
        if content is None:
            (tmp_path / name / "something").touch()
        else:
            (tmp_path / name / "index.json").write_text(content)
    (tmp_path / "file").touch()
    got, line = site.refused("commit", changed, image.replace("{tmp}", str(tmp_path)))
    assert line.startswith("fusevol: ")
    assert said.replace("{tmp}", str(tmp_path)) in line
    assert got == status
    assert (tmp_path / "full/something").exists()
    assert not (tmp_path / "out").exists()


def test_a_full_disk_is_said(site: Site, tmp_path: Path) -> None:
    site.run("large", "dd if=/dev/urandom of=/large bs=1M count=4")
    small = tmp_path / "small"
    small.mkdir()
    command("mount", "-t", "tmpfs", "-o", "size=2m", "none", small)
    try:
        for image in (f"oci:{small}/out", f"oci-archive:{small}/a.tar"):
            status, said = site.refused("commit", "large", image)
            assert status == 1
            assert re.fullmatch(rf"fusevol: {small}\S* cannot be written: No space left.*", said)
        assert not list(small.rglob(".*"))
        assert not (small / "out/index.json").exists()
    finally:
        command("umount", small)


def test_an_unknown_container_and_a_wrong_instruction_are_refused(
    site: Site, changed: str, tmp_path: Path
) -> None:
    status, said = site.refused("commit", "nobody", f"oci:{tmp_path}/out")
    assert (status, "no container nobody" in said) == (3, True)
    status, said = site.refused("commit", changed, f"oci:{tmp_path}/out", "-c", "VOLUME /x")
    assert status == 2
    assert "unknown instruction 'VOLUME'; use one of CMD" in said
    assert list(tmp_path.iterdir()) == []


def test_the_base_is_found_from_any_directory(site: Site, tmp_path: Path) -> None:
    layout, tag = site.image.removeprefix("oci:").rsplit(":", 1)
    words = ["run", "--name", "relative", "--image", f"oci:{Path(layout).name}:{tag}", "--", "true"]
    env = {**os.environ, **site.env}
    subprocess.run([FUSEVOL, *words], cwd=Path(layout).parent, env=env, check=True)
    site.cli("commit", "relative", f"oci:{tmp_path}/out")


def test_a_base_that_is_damaged_or_gone_is_refused(site: Site, tmp_path: Path) -> None:
    layout = tmp_path / "layout"
    _, _, base = site.image.partition(":")
    command("skopeo", "copy", f"oci:{base}", f"oci:{layout}:t")
    site.cli("run", "--name", "baseless", "--image", f"oci:{layout}:t", "--", "true")
    (layer,) = blob(layout, index_of(layout)["t"]["digest"])["layers"]
    path = layout / "blobs" / layer["digest"].replace(":", "/")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    # Also where the blob would stay where it is.
    for image in (f"oci:{tmp_path}/out", f"oci-archive:{tmp_path}/a.tar", f"oci:{layout}:t"):
        status, said = site.refused("commit", "baseless", image)
        assert status == 1
        assert f"blob {layer['digest']} in {layout} is damaged" in said
    path.unlink()
    assert site.refused("commit", "baseless", f"oci:{tmp_path}/out")[0] == 3
    shutil.rmtree(layout)
    status, said = site.refused("commit", "baseless", f"oci:{tmp_path}/out")
    assert (status, str(layout) in said) == (3, True)
