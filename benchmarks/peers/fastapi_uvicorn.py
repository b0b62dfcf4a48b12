# /// script
# requires-python = ">=3.11"
# dependencies = [
#   "fastapi==0.165.0", "uvicorn[standard]==0.54.0", "orjson==3.13.0", "numpy==2.4.6", "onnxruntime==1.32.0",
# ]
# ///
"""FastAPI on uvicorn (uvloop, httptools) with the model in its process, a request at a time on the event loop.

For a model of a tenth of a millisecond this is faster than a thread pool or a batch; orjson reads and writes.
"""

from __future__ import annotations

import os

import orjson
import uvicorn
from fastapi import FastAPI, Request, Response
from model import Model, arguments, to_tree

app = FastAPI()
model = Model(os.environ["MODEL"]) if "MODEL" in os.environ else None  # in the processes that serve


@app.post("/json")
async def from_json(request: Request) -> Response:
    answer = model(model.from_tree(orjson.loads(await request.body())))
    return Response(orjson.dumps(to_tree(answer)), media_type="application/json")


@app.post("/raw")
async def from_raw(request: Request) -> Response:
    answer = model(model.from_raw(await request.body()))
    return Response(answer.tobytes(), media_type="application/octet-stream")


if __name__ == "__main__":
    told = arguments()
    os.environ["MODEL"] = told.model
    uvicorn.run(
        "fastapi_uvicorn:app",
        host="127.0.0.1",
        port=told.port,
        workers=told.workers,
        loop="uvloop",
        http="httptools",
        access_log=False,
        log_level="warning",
    )
