"""Which alerts are listed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cluster.errors import ConfigError, UserError
from cluster.store import Store
from serve.watch import ledger
from serve.watch.alert import raised
from serve.watch.ledger import Ledger
from serve.watch.outbox import Outbox
from trimtab.alerts import moment
from trimtab.cli import app


def test_alerts_are_listed_by_topic_and_time_and_those_no_webhook_got(
    store: Store, experiment_file: Callable[..., Path]
) -> None:
    folder, file, run = ledger.place(store, "digits"), str(experiment_file()), CliRunner()
    one, two = (
        raised("surge", topic, at, at, f"words of {topic}", {}) for topic, at in (("banks", 1e9), ("oil", 1.7e9))
    )
    with Ledger(folder, Outbox(folder / "outbox"), lambda _: None) as book:
        book.commit({}, [one, two], 0.0)

    def listed(*options: str) -> list[str]:
        shown = run.invoke(app, ["alerts", file, "--json", "--store", store.uri, *options])
        return [entry["topic"] for entry in json.loads(shown.stdout)]

    assert listed() == ["banks", "oil"]
    assert listed("--topic", "oil") == ["oil"]
    assert listed("--since", "2020-01-01") == ["oil"]
    assert listed("--since", "1h") == []
    assert listed("--undelivered") == ["banks", "oil"]
    words = run.invoke(app, ["alerts", file, "--undelivered", "--store", store.uri]).stdout
    assert "2001-09-09 01:46:40Z  surge  banks: words of banks  (waiting)" in words
    next((folder / "outbox" / "waiting").iterdir()).write_text("{")
    words = run.invoke(app, ["alerts", file, "--undelivered", "--store", store.uri], catch_exceptions=False).stdout
    assert "cannot be read  (waiting)" in words


def test_to_send_again_needs_a_webhook(store: Store, experiment_file: Callable[..., Path]) -> None:
    with pytest.raises(ConfigError, match="there is nowhere to send to"):
        CliRunner().invoke(
            app, ["alerts", str(experiment_file()), "--resend", "--store", store.uri], catch_exceptions=False
        )


@pytest.mark.parametrize(
    ("text", "at"), [("90s", 910.0), ("1.5m", 910.0), ("500ms", 999.5), ("1970-01-01T00:01", 60.0)]
)
def test_a_moment_is_a_duration_ago_or_a_time(text: str, at: float) -> None:
    assert moment(text, 1000.0) == at


@pytest.mark.parametrize("text", ["yesterday", "3", "h", "-2h", ""])
def test_what_is_no_moment_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="--since"):
        moment(text, 1000.0)
