from __future__ import annotations

import pytest

from cluster.errors import RequestError
from serve import bounds


@pytest.mark.parametrize(
    ("headers", "expected_s"),
    [
        pytest.param({}, 30.0, id="the endpoint's own"),
        pytest.param({"x-request-timeout-seconds": "10"}, 9.5, id="shortened, with time for the way back"),
        pytest.param({"x-request-timeout-seconds": "0"}, 30.0, id="no timeout"),
        pytest.param({"x-request-timeout-seconds": "99"}, 30.0, id="longer"),
        pytest.param({"x-deadline-ms": "250"}, 0.25, id="deadline"),
        pytest.param({"x-deadline-ms": "99000"}, 30.0, id="later deadline"),
        pytest.param({"x-deadline-ms": "250", "x-request-timeout-seconds": "0.1"}, 0.095, id="the timeout is shorter"),
        pytest.param({"x-deadline-ms": "50", "x-request-timeout-seconds": "0"}, 0.05, id="the deadline is shorter"),
    ],
)
def test_the_client_shortens_its_time_and_never_lengthens_it(headers: dict[str, str], expected_s: float) -> None:
    assert bounds.time_s(headers.get, 30.0) == pytest.approx(expected_s)


@pytest.mark.parametrize("text", ["0", "-5", "-0.0"])
def test_a_deadline_that_has_passed_leaves_no_time(text: str) -> None:
    with pytest.raises(RequestError) as refused:
        bounds.time_s({"x-deadline-ms": text}.get, 30.0)

    assert refused.value.status == 504


@pytest.mark.parametrize("name", ["x-deadline-ms", "x-request-timeout-seconds"])
@pytest.mark.parametrize("text", ["", "soon", "nan", "inf", "1e999"])
def test_what_is_no_number_is_refused(name: str, text: str) -> None:
    with pytest.raises(RequestError, match="is not a number of ") as refused:
        bounds.time_s({name: text}.get, 30.0)

    assert refused.value.status == 400
