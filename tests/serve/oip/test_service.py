"""That it carries calls is tested in test_rpc; here, that others may live beside it."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

from serve.oip import oip_pb2

ROOT = Path(__file__).resolve().parents[3]


def test_messages_can_go_from_one_process_to_another() -> None:
    request = oip_pb2.ModelInferRequest(model_name="shades")

    assert pickle.loads(pickle.dumps(request)) == request


def test_a_proxy_imports_no_more_than_the_messages() -> None:
    program = """
import sys
import serve.oip.service
assert not {"numpy", "onnxruntime", "torch", "ray"} & set(sys.modules), "too much is imported"
"""

    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)

    assert done.returncode == 0, done.stderr
