import os
from typing import Final

import pytest

from fusevol.linux.container_id import container_id

ID: Final = "4b8ef2c0" * 8
INNER: Final = "0d5a71e9" * 8
POD: Final = "c0ffee11" * 8
BUILD: Final = "u4zk7wq9r2m1x0c8v6b5n3a7s"
UID: Final = "8f7d2c7e-26bb-4a6e-9a55-0c1d2e3f4a5b"
UID_: Final = UID.replace("-", "_")
USER: Final = "/user.slice/user-1000.slice/user@1000.service"
BURSTABLE: Final = (
    f"kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{UID_}.slice"
)  # fmt: skip

CONTAINERS: Final = {
    # Docker
    f"/docker/{ID}": ID,
    f"/docker/{ID}/init": ID,
    f"/system.slice/docker-{ID}.scope": ID,
    f"/system.slice/docker-{ID}.scope/init.scope": ID,
    f"/system.slice/docker-{ID}.scope/system.slice/nginx.service": ID,
    f"{USER}/user.slice/docker-{ID}.scope": ID,
    f"/tenants.slice/tenants-blue.slice/docker-{ID}.scope": ID,
    f"/tenants/blue/{ID}": ID,
    f"/system.slice:docker:{ID}": ID,
    f"/ecs/0c1d2e3f4a5b/{ID}": ID,
    # Podman
    f"/libpod_parent/libpod-{ID}": ID,
    f"/libpod_parent/libpod-{ID}/container": ID,
    f"/libpod_parent/{POD}/libpod-{ID}": ID,
    f"/tenants/{POD}/libpod-{ID}": ID,
    f"/machine.slice/libpod-{ID}.scope": ID,
    f"/machine.slice/libpod-{ID}.scope/container": ID,
    f"/machine.slice/machine-libpod_pod_{POD}.slice/libpod-{ID}.scope": ID,
    f"{USER}/user.slice/libpod-{ID}.scope/container": ID,
    f"{USER}/user.slice/user-libpod_pod_{POD}.slice/libpod-{ID}.scope/container": ID,
    f"/system.slice/nginx.service/libpod-payload-{ID}": ID,
    f"{USER}/app.slice/redis.service/libpod-payload-{ID}/container": ID,
    # Kubernetes: containerd, CRI-O, Docker
    f"/kubepods/besteffort/pod{UID}/{ID}": ID,
    f"/kubepods/pod{UID}/{ID}": ID,
    f"/kubepods/burstable/pod{UID}/crio-{ID}": ID,
    f"/{BURSTABLE}/cri-containerd-{ID}.scope": ID,
    f"/{BURSTABLE}/crio-{ID}.scope": ID,
    f"/{BURSTABLE}/crio-{ID}.scope/container": ID,
    f"/{BURSTABLE}/docker-{ID}.scope": ID,
    f"/kubepods-burstable-pod{UID_}.slice:cri-containerd:{ID}": ID,
    f"/system.slice/containerd.service/kubepods-pod{UID_}.slice:cri-containerd:{ID}": ID,
    # nerdctl, containerd's namespaces
    f"/system.slice/nerdctl-{ID}.scope": ID,
    f"{USER}/user.slice/nerdctl-{ID}.scope": ID,
    f"/k8s.io/{ID}": ID,
    # BuildKit
    f"/docker/buildkit/{BUILD}": BUILD,
    f"/system.slice/buildkit-{BUILD}.scope": BUILD,
    # systemd-nspawn
    "/machine.slice/systemd-nspawn@web.service/payload": "web",
    "/machine.slice/systemd-nspawn@web.service/payload/init.scope": "web",
    r"/machine.slice/systemd-nspawn@my\x2dweb.service/payload": "my-web",
    "/machine.slice/machine-web.scope/payload/system.slice/nginx.service": "web",
    r"/machine.slice/machine-my\x2dweb\x2d1.scope": "my-web-1",
    # LXC, LXD, Incus, Proxmox
    "/lxc/web": "web",
    "/lxc/100/ns/init.scope": "100",
    "/lxc.payload/web": "web",
    "/lxc.payload.my-web/system.slice/nginx.service": "my-web",
    f"{USER}/user.slice/lxc.payload.web": "web",
    # libvirt-lxc
    r"/machine.slice/machine-lxc\x2d4711\x2dmy\x2dweb.scope": "my-web",
    "/machine/web.libvirt-lxc": "web",
    "/production.partition/lxc-22222-my-web.libvirt-lxc": "my-web",
    # One engine inside another: the host knows the outer one.
    f"/docker/{ID}/docker/{INNER}": ID,
    f"/docker/{ID}/libpod_parent/libpod-{INNER}": ID,
    f"/docker/{ID}/docker/buildkit/{BUILD}": ID,
    f"/system.slice/docker-{ID}.scope/kubelet.slice/cri-containerd-{INNER}.scope": ID,
    f"/system.slice/docker-{ID}.scope/machine.slice/libpod-conmon-{INNER}.scope": ID,
    f"/lxc.payload.web/system.slice/docker-{INNER}.scope": "web",
    f"/machine.slice/systemd-nspawn@web.service/payload/docker/{INNER}": "web",
    # Seen from inside a control group namespace.
    f"/../../docker/{ID}": ID,
    f"/../docker-{ID}.scope": ID,
    f"/../{ID}": ID,
    # A zombie whose control group is gone.
    f"/docker/{ID} (deleted)": ID,
    "/lxc.payload.web (deleted)": "web",
}

HOST: Final = (
    "/",
    "/..",
    "/../..",
    "/init.scope",
    "/docker",
    "/docker/buildkit",
    "/system.slice/docker.service",
    "/system.slice/containerd.service",
    f"{USER}/app.slice/app-org.gnome.Terminal.slice/vte-spawn-{UID}.scope",
    "/user.slice/user-1000.slice/session-3.scope",
    # Monitors and other servants of a container.
    f"/machine.slice/libpod-conmon-{ID}.scope",
    f"{USER}/user.slice/libpod-conmon-{ID}.scope",
    f"/{BURSTABLE}/crio-conmon-{ID}.scope",
    "/libpod_parent/conmon",
    f"/libpod_parent/{POD}/conmon",
    f"/libpod_parent/{POD}",
    f"/tenants/{POD}/conmon",
    f"/machine.slice/machine-libpod_pod_{POD}.slice",
    "/system.slice/nginx.service/runtime",
    "/system.slice/nginx.service/supervisor",
    f"/system.slice/{ID}.service",
    f"/system.slice/{ID}-5f1c.timer",
    f"/system.slice/var-lib-docker-containers-{ID}-mounts-shm.mount",
    "/machine.slice/systemd-nspawn@web.service/supervisor",
    "/machine.slice/machine-web.scope/supervisor",
    "/lxc",
    "/lxc.payload",
    "/lxc.monitor/web",
    "/lxc.monitor.web",
    # Virtual machines.
    r"/machine.slice/machine-qemu\x2d1\x2dvm.scope/libvirt/emulator",
    "/machine/qemu-1-vm.libvirt-qemu/emulator",
    # A pod, and ids of a wrong length.
    f"/kubepods/besteffort/pod{UID}",
    f"/docker/{ID[:63]}",
    f"/docker/{ID}0",
    f"/system.slice/docker-{ID}.scopes",
)

V1: Final = """\
11:blkio:{path}
10:net_cls,net_prio:{path}
4:cpu,cpuacct:{path}
3:memory:{path}
1:name=systemd:{path}
"""


@pytest.mark.parametrize("path", CONTAINERS)
def test_container_on_every_cgroup_version(path: str) -> None:
    assert container_id(f"0::{path}\n") == CONTAINERS[path]
    assert container_id(V1.format(path=path)) == CONTAINERS[path]
    assert container_id(V1.format(path=path) + "0::/init.scope\n") == CONTAINERS[path]
    assert container_id(V1.format(path="/") + f"0::{path}\n") == CONTAINERS[path]


@pytest.mark.parametrize("path", HOST)
def test_process_of_the_host(path: str) -> None:
    assert container_id(f"0::{path}\n") is None
    assert container_id(V1.format(path=path)) is None
    assert container_id(V1.format(path=path) + f"0::{path}\n") is None


def test_the_unified_hierarchy_tells_most() -> None:
    assert container_id(f"4:cpu:/docker/{INNER}\n0::/docker/{ID}\n") == ID


def test_systemd_tells_more_than_a_controller() -> None:
    assert container_id(f"4:cpu:/docker/{INNER}\n1:name=systemd:/docker/{ID}\n0::/\n") == ID


def test_one_controller_is_enough() -> None:
    assert container_id(f"9:name=systemd:/\n8:pids:/docker/{ID}\n4:memory:/\n0::/\n") == ID


@pytest.mark.parametrize("text", ["", "\n", "0", "0:", "0::", "nonsense", f"/docker/{ID}"])
def test_text_that_is_no_cgroup_file(text: str) -> None:
    assert container_id(text) is None


def test_name_is_text_whatever_its_bytes() -> None:
    path = b"/lxc.payload.caf\xe9\\n"
    assert container_id("0::" + os.fsdecode(path)) == r"caf\xe9\\n"
