"""Ports once chosen are nobody else's, also before anyone listens on them."""

import socket
from itertools import pairwise

import pytest

from cluster import ports
from cluster.errors import ClusterError


def _all(chosen):
    blocks = {
        number for first, last in (chosen.ingress_http, chosen.ingress_grpc, chosen.workers) for number in (first, last)
    }
    return {chosen.http, chosen.grpc, chosen.dashboard, *(chosen.single(i) for i in range(20)), *blocks}


def test_two_choices_share_no_port():
    first, second = ports.choose(), ports.choose()

    assert not _all(first) & _all(second)
    first.release()
    second.release()


def test_the_ranges_of_one_cluster_do_not_overlap():
    chosen = ports.choose()
    chosen.release()

    ranges = sorted([(chosen.single(0), chosen.single(19)), chosen.ingress_http, chosen.ingress_grpc, chosen.workers])
    assert all(before[1] < after[0] for before, after in pairwise(ranges))


def test_a_port_is_free_again_when_its_claim_is_let_go():
    chosen = ports.choose()
    with pytest.raises(ClusterError, match=str(chosen.http)):
        ports.choose(chosen.http)

    chosen.release()

    again = ports.choose(chosen.http)
    assert again.http == chosen.http
    again.release()


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_a_port_someone_listens_on_is_not_free(host):
    with socket.create_server((host, 0)) as taken:
        port = taken.getsockname()[1]
        assert not ports.is_free(port)

    assert ports.is_free(port)


@pytest.mark.parametrize("port", [0, -1, 70_000])
def test_a_number_that_is_no_port_is_refused(port):
    with pytest.raises(ClusterError, match="is not a port"):
        ports.choose(port)
