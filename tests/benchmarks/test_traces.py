from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks import traces


def test_a_squeezed_and_scaled_trace_keeps_its_shape():
    whole = traces.burst(seconds=60, every_s=20, length_s=5, ratio=3)

    fast = whole.squeezed(10).scaled(50.0)

    assert fast.seconds == pytest.approx(6)
    assert fast.mean == pytest.approx(50)
    assert fast.peak / fast.rates.min() == pytest.approx(3)


def test_a_seed_gives_the_same_arrivals_and_as_many_as_the_rates_say():
    trace = traces.step(seconds=100, at_s=50, ratio=3).scaled(40)

    at = trace.arrivals(seed=1)

    assert np.array_equal(at, trace.arrivals(seed=1))
    assert not np.array_equal(at[:50], trace.arrivals(seed=2)[:50])
    assert (np.diff(at) >= 0).all()
    assert len(at) == pytest.approx(4000, rel=0.1)
    assert (at > 50).mean() == pytest.approx(0.75, abs=0.03)


@pytest.mark.parametrize(
    ("start_s", "seconds"),
    [
        pytest.param(90, 20, id="beyond the end"),
        pytest.param(-1, 20, id="before the beginning"),
        pytest.param(5, 0, id="nothing"),
    ],
)
def test_a_window_outside_of_the_trace_is_refused(start_s: float, seconds: float):
    with pytest.raises(ValueError, match="no window"):
        traces.diurnal(seconds=100).window(start_s, seconds)


def test_both_kinds_of_files_are_read(tmp_path: Path):
    folder = write_traces(tmp_path, requests=[3, 4, 5, 6], stamps=["00.0", "00.5", "02.9999999"])

    assert traces.has_traces(folder)
    assert not traces.has_traces(tmp_path / "other")
    assert traces.twitter(folder, (1, 2)).rates.tolist() == [4, 5]
    assert traces.azure(folder, "code").rates.tolist() == [2, 0, 1]


def test_the_hole_in_the_archive_is_no_window(tmp_path: Path):
    folder = write_traces(tmp_path, requests=[5] * 10 + [0] * 200 + [5] * 10, stamps=["00.0"])

    with pytest.raises(ValueError, match="hole"):
        traces.twitter(folder, (0, 220))


def test_every_named_window_of_the_real_trace_is_whole():
    data = traces.data_folder()
    if not traces.has_traces(data):
        pytest.skip(f"no traces in {data}")

    found = {name: traces.twitter(data, name) for name in traces.WINDOWS}

    assert found["burst"].peak > 4 * np.median(found["burst"].rates)
    assert found["calm"].peak < 2.5 * np.median(found["calm"].rates)
    assert traces.azure(data, "conv").mean == pytest.approx(5.5, abs=0.1)


def write_traces(folder: Path, requests: list[int], stamps: list[str]) -> Path:
    for name in ("twitter_trace_2021", "azure_llm_trace_2023"):
        (folder / name).mkdir()
    table = pa.table({"second": list(range(len(requests))), "requests": pa.array(requests, pa.int16())})
    pq.write_table(table, folder / "twitter_trace_2021" / "requests_per_second.parquet")
    for kind in traces.AZURE:
        path = folder / "azure_llm_trace_2023" / f"AzureLLMInferenceTrace_{kind}.csv"
        with path.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["TIMESTAMP", "ContextTokens", "GeneratedTokens"])
            writer.writerows([f"2023-11-16 18:17:{stamp}", 1, 1] for stamp in stamps)
    return folder
