"""Names of images, and instructions that change their settings."""

from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusevol.errors import UsageError
from fusevol.images.instructions import apply_changes
from fusevol.images.reference import ImageReference, full_name, parse_target

TARGETS: Final = {
    "oci:/d": ("oci", "/d", "latest", ""),
    "oci:/d:t": ("oci", "/d", "t", ""),
    "oci:/d:example.com/web:1": ("oci", "/d", "example.com/web:1", ""),
    "oci-archive:/f": ("oci-archive", "/f", "", ""),
    "oci-archive:/f:1.0": ("oci-archive", "/f", "1.0", ""),
    "oci-archive:/f:web:1": ("oci-archive", "/f", "web:1", "web:1"),
    "oci-archive:/f:me/web": ("oci-archive", "/f", "me/web", "me/web:latest"),
    "docker-archive:/f": ("docker-archive", "/f", "", ""),
    "docker-archive:/f:web": ("docker-archive", "/f", "web:latest", "web:latest"),
    "docker-archive:/f:web:1": ("docker-archive", "/f", "web:1", "web:1"),
    "docker-archive:/f:h:5000/web": (
        "docker-archive", "/f", "h:5000/web:latest", "h:5000/web:latest",
    ),
    "docker-archive:/f:h:5000/a/b__c:V-1": (
        "docker-archive", "/f", "h:5000/a/b__c:V-1", "h:5000/a/b__c:V-1",
    ),
    "docker-archive:-:web": ("docker-archive", "-", "web:latest", "web:latest"),
}  # fmt: skip

WRONG: Final = (
    "", "oci", "oci:", "oci::t", "dir:/d", "oci:-", "oci:/d:a b", "oci:/d:-x", "oci:/d:x/",
    "oci-archive:/f:Web:1", "docker-archive:/f:web:", "docker-archive:/f:/web",
    "docker-archive:/f:web:a:b", "docker-archive:/f:web@sha256:0", "docker-archive:/f:web:.x",
    "docker-archive:/f:ü", "docker-archive:/f\0:web",
)  # fmt: skip


@pytest.mark.parametrize("text", TARGETS)
def test_where_an_image_goes(text: str) -> None:
    assert parse_target(text) == ImageReference(*TARGETS[text])


@pytest.mark.parametrize("text", WRONG)
def test_what_cannot_be_meant_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_target(text)


@given(st.text(max_size=40))
def test_nothing_but_a_usage_error_comes_of_any_text(text: str) -> None:
    for form in ("oci:", "oci-archive:/f:", "docker-archive:/f:", ""):
        try:
            target = parse_target(form + text)
        except UsageError:
            continue
        if target.docker_name:
            assert ":" in target.docker_name.rpartition("/")[2]


@pytest.mark.parametrize(
    ("name", "full"),
    [
        ("web:1", "docker.io/library/web:1"),
        ("me/web:1", "docker.io/me/web:1"),
        ("localhost/web:1", "localhost/web:1"),
        ("h:5000/web:1", "h:5000/web:1"),
        ("example.com/web:1", "example.com/web:1"),
        ("Host/web:1", "Host/web:1"),
    ],
)
def test_a_short_name_is_one_of_dockers(name: str, full: str) -> None:
    assert full_name(name) == full


def changed(*changes: str, **settings: Any) -> dict[str, Any]:
    apply_changes(settings, changes)
    return settings


def test_commands_are_lists_or_lines() -> None:
    assert changed('CMD ["a", "b c"]') == {"Cmd": ["a", "b c"]}
    assert changed("cmd a 'b c'") == {"Cmd": ["/bin/sh", "-c", "a 'b c'"]}
    assert changed("CMD []", Cmd=["old"]) == {"Cmd": []}
    assert changed(' ENTRYPOINT  ["a"] ', Cmd=["old"]) == {"Entrypoint": ["a"]}
    assert changed('CMD ["new"]', 'ENTRYPOINT ["a"]', Cmd=["old"]) == {
        "Entrypoint": ["a"], "Cmd": ["new"],
    }  # fmt: skip


def test_variables_and_labels_are_added_or_replaced() -> None:
    env = ["PATH=/bin", "A=1", "EMPTY="]
    assert changed("ENV A=2 B='x y' C=a=b", "ENV D some words", Env=env)["Env"] == [
        "PATH=/bin", "A=2", "EMPTY=", "B=x y", "C=a=b", "D=some words",
    ]  # fmt: skip
    assert changed("LABEL a=1", "LABEL a=2 b=", Labels=None) == {"Labels": {"a": "2", "b": ""}}


def test_the_rest() -> None:
    assert changed("USER me:us") == {"User": "me:us"}
    assert changed("WORKDIR /a b") == {"WorkingDir": "/a b"}
    assert changed("WORKDIR b", WorkingDir="/a/") == {"WorkingDir": "/a/b"}
    assert changed("WORKDIR b") == {"WorkingDir": "/b"}
    assert changed("STOPSIGNAL SIGRTMIN+3") == {"StopSignal": "SIGRTMIN+3"}
    assert changed("EXPOSE 80 53/udp", ExposedPorts={"1/tcp": {}}) == {
        "ExposedPorts": {"1/tcp": {}, "80/tcp": {}, "53/udp": {}}
    }


@pytest.mark.parametrize(
    "change",
    [
        "", "RUN x", "VOLUME /x", "CMD", "CMD ", "CMD [1]", 'CMD ["a"', "ENV A", "ENV =1",
        "ENV A=1 B", "ENV A='x", "LABEL x", "USER a b", "EXPOSE x", "EXPOSE 80/x",
        "STOPSIGNAL kill it",
    ],
)  # fmt: skip
def test_an_instruction_that_cannot_be_meant_is_refused(change: str) -> None:
    with pytest.raises(UsageError, match="--change"):
        changed(change)
