from __future__ import annotations

import pickle

import pytest

from cluster.errors import ClusterError, ConfigError, DataError, GateError, NotFoundError, StoreError, TrimtabError


@pytest.mark.parametrize(
    ("kind", "code"),
    [(ConfigError, 2), (DataError, 2), (StoreError, 2), (ClusterError, 2)],
)
def test_a_users_mistake_names_field_value_and_mend_and_exits_with_2(kind: type, code: int) -> None:
    error = kind("data.source.path", "/nowhere", "no such folder", "name a folder")

    assert str(error) == "data.source.path = '/nowhere': no such folder; name a folder"
    assert error.exit_code == code


def test_other_failures_have_exit_codes_of_their_own() -> None:
    assert [TrimtabError.exit_code, GateError.exit_code, NotFoundError.exit_code] == [1, 3, 4]


def test_an_error_says_the_same_after_the_way_through_a_worker() -> None:
    error = DataError("data", "x" * 500, "is long", "cut it")

    again = pickle.loads(pickle.dumps(pickle.loads(pickle.dumps(error))))

    assert (type(again), str(again), again.mend) == (DataError, str(error), "cut it")
    assert len(str(again)) < 200
