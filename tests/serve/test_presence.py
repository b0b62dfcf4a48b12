"""What a replica asks of Serve where there is none, or no actor."""

from __future__ import annotations

import asyncio
import os

from serve import presence


def test_outside_of_serve_it_has_the_name_of_its_process_and_no_envelope() -> None:
    assert presence.replica_id() == f"process-{os.getpid()}"
    assert asyncio.run(presence.present_envelope(1.0)) is None
