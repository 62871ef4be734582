"""Addresses and counts of a command line: read, told where wrong, and judged local or not."""

import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedps.errors import JobError
from fedps.launch.addresses import Address, RoleFlags, _listed, check_here, is_here, read_counts

HOSTS = st.sampled_from(["127.0.0.1", "localhost", "a-b.example", "::1", "fe80::1"])
SEED = ",".join(f"127.0.0.1:{port}" for port in range(9000, 9010))


@given(st.lists(st.builds(Address, HOSTS, st.integers(0, 65535)), min_size=1, max_size=5))
def test_what_is_written_is_read_the_same(addresses: list[Address]) -> None:
    assert _listed("--servers", ", ".join(map(str, addresses)), []) == addresses


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "an entry is empty"),
        ("127.0.0.1:1,", "an entry is empty"),
        ("127.0.0.1", "is no host:port"),
        (":9000", "is no host:port"),
        ("host:", "'' is no port"),
        ("host:http", "'http' is no port"),
        ("host:-1", "'-1' is no port"),
        ("host:65536", "'65536' is no port"),
        ("host:²", "is no port"),
        ("::1:9000", "stands in brackets"),
        ("[::1", "stands in brackets"),
        ("a b:9000", "is no host:port"),
        ("http://a:80", "is no host:port"),
        ("a:1;b:2", "is no host:port"),
        ("127.1:80", "Expected 4 octets in '127.1'"),
        ("0x7f.1:80", "Expected 4 octets in '0x7f.1'"),
        ("127.0.0.010:80", "Leading zeros are not permitted"),
        ("256.1.1.1:80", "Octet 256 (> 255) not permitted"),
        ("[localhost]:80", "At least 3 parts expected in 'localhost'"),
        ("[]:80", "Address cannot be empty"),
        ("\u200b127.0.0.1:80", "is no host:port"),
        ("１２７.0.0.1:80", "is no host:port"),
    ],
)
def test_a_wrong_list_is_told_with_its_flag_and_the_form(text: str, said: str) -> None:
    with pytest.raises(JobError, match=r"write host:port,host:port, e\.g\. 127\.0\.0\.1:10000") as error:
        read_counts(servers=text)
    assert str(error.value).startswith("--servers: ")
    assert said in str(error.value)


def test_the_original_command_line_is_read() -> None:
    counts = read_counts(10, SEED, 1, "127.0.0.1:10000", 1, "127.0.0.1:10001")
    assert counts == RoleFlags(10, 1, 1, (Address("127.0.0.1", 10000),), Address("127.0.0.1", 10001))
    assert counts.overrides() == ["runner.worker_num=10", "runner.server_num=1", "runner.with_coordinator=true"]


def test_a_list_or_a_count_is_enough_and_none_says_nothing() -> None:
    assert read_counts(workers=SEED).workers == 10
    assert read_counts(servers="a:1,b:2").servers == 2
    assert read_counts(coordinators="a:1").overrides() == ["runner.with_coordinator=true"]
    assert read_counts(coordinator_num=0).overrides() == ["runner.with_coordinator=false"]
    assert read_counts().overrides() == []


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"worker_num": 3, "workers": "a:1,b:2"}, "--worker_num 3 and --workers (2 addresses) contradict each other"),
        ({"server_num": 2, "servers": "a:1"}, "--server_num 2 and --servers (1 address) contradict each other"),
        (
            {"coordinator_num": 0, "coordinators": "a:1"},
            "--coordinator_num 0 and --coordinators (1 address) contradict",
        ),
        ({"coordinator_num": 2}, "--coordinator_num 2: a job has one coordinator, or none"),
        ({"coordinators": "a:1,b:1"}, "name one address"),
        ({"servers": "a:1,a:1"}, "a:1: is given to two roles"),
        ({"servers": "a:1", "coordinators": "a:1"}, "a:1: is given to two roles"),
    ],
    ids=str,
)
def test_contradictions_name_both(flags: dict[str, object], said: str) -> None:
    with pytest.raises(JobError) as error:
        read_counts(**flags)  # type: ignore[arg-type]
    assert said in str(error.value)


def test_free_ports_may_be_asked_for_twice_and_all_mistakes_are_told_at_once() -> None:
    assert len(read_counts(servers="127.0.0.1:0,127.0.0.1:0").server_at) == 2
    with pytest.raises(JobError) as error:
        read_counts(worker_num=1, workers="a:x,b:1,c:1", servers="nowhere")
    assert len(error.value.mistakes) == 3


def test_this_machine_is_known_by_its_names_and_addresses() -> None:
    assert all(is_here(host) for host in ("127.0.0.1", "127.8.8.8", "localhost", "0.0.0.0"))
    assert not is_here("192.0.2.1"), "an address for documentation is nobody's"
    with pytest.raises(JobError, match=r"host 'nobody\.invalid': is not known here"):
        is_here("nobody.invalid")


def test_roles_elsewhere_are_told_with_the_command_to_start_them() -> None:
    counts = RoleFlags(
        server_at=(Address("127.0.0.1", 1), Address("192.0.2.1", 2)), coordinator_at=Address("192.0.2.1", 3)
    )
    with pytest.raises(JobError) as error:
        check_here(counts)
    server, coordinator = error.value.mistakes
    assert "server 1 192.0.2.1:2: is not this machine" in server
    assert "`fedps server JOB.yaml --shard 1 --servers …`" in server
    assert "`fedps coordinator JOB.yaml --coordinators 192.0.2.1:3`" in coordinator


def test_a_taken_port_is_named_with_its_role() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        at = Address(*taken.getsockname())
        with pytest.raises(JobError) as error:
            check_here(RoleFlags(server_at=(Address("127.0.0.1", 0), at), coordinator_at=at))
    assert error.value.mistakes == [
        f"{role}: cannot listen on {at}: Address already in use; choose another port, or end who has it"
        for role in ("server 1", "coordinator")
    ]
    check_here(RoleFlags(server_at=(at,), coordinator_at=Address("127.0.0.1", 0)))


def test_two_roles_at_one_address_are_told_however_it_is_written() -> None:
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        port = door.getsockname()[1]
    for one, other in (
        ("127.0.0.1", "localhost"),
        ("0.0.0.0", "127.0.0.1"),
        ("localhost", "0.0.0.0"),
        ("127.0.0.1",) * 2,
    ):
        servers, coordinator = (Address(one, port), Address(one, 0)), Address(other, port)
        with pytest.raises(JobError) as error:
            check_here(RoleFlags(server_at=servers, coordinator_at=coordinator))
        (told,) = error.value.mistakes
        assert (
            told
            == f"coordinator {coordinator}: is where server 0 listens, {servers[0]}; each listens on a port of its own"
        )
    check_here(RoleFlags(server_at=(Address("127.0.0.1", port), Address("127.0.0.2", port))))
    with pytest.raises(JobError, match=r"'nowhere\.invalid': is not known"):
        check_here(RoleFlags(server_at=(Address("nowhere.invalid", port),), coordinator_at=Address("127.0.0.1", port)))


def test_who_listens_everywhere_is_called_on_the_loopback() -> None:
    assert str(Address("0.0.0.0", 5).reachable) == "127.0.0.1:5"
    assert str(Address("::", 5).reachable) == "[::1]:5"
    assert Address(socket.gethostname(), 5).reachable.host == socket.gethostname()
