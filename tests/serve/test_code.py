from __future__ import annotations

from pathlib import Path

import pytest

from serve import code


def test_what_a_module_needs_is_found_through_others_and_inside_of_functions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {
        "serve/first.py": "import json\nfrom serve import second\n",
        "serve/second.py": "def late():\n    from tasks.third import anything\n",
        "tasks/third.py": "import serve.first\nfrom numpy import array\n",
        "serve/alone.py": "",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(code, "ROOT", tmp_path)

    assert code.modules("serve.first") == ("serve.first", "serve.second", "tasks.third")


def test_a_replica_and_its_actor_are_serving_code_and_the_client_is_not() -> None:
    found = set(code.modules())

    assert {"serve.replica", "serve.canary", "serve.shadow", "serve.adapt.actor", "ladder.embedding"} <= found
    assert found & {"serve.deploy", "serve.promote"} == set()
    assert not [name for name in found if name.startswith(("trimtab", "jobs", "tune"))]
