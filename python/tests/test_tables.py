"""Tables of pandas and pyarrow and arrays of zarr, by the names of their files alone."""

from __future__ import annotations

import fsspec
import numpy
import pandas
import pyarrow
import pyarrow.compute
import pyarrow.dataset
import pyarrow.fs
import pyarrow.parquet
import pytest
import zarr

ROWS = 200_000


@pytest.fixture
def table() -> pandas.DataFrame:
    numbers = range(ROWS)
    return pandas.DataFrame({"number": numbers, "text": [f"row {n}" for n in numbers], "group": [n % 4 for n in numbers]})


def test_pandas_writes_and_reads_parquet_and_csv(cluster: object, bucket: str, table: pandas.DataFrame) -> None:
    options = {"endpoint": cluster.endpoint}  # type: ignore[attr-defined]
    table.to_parquet(f"xdpfs://{bucket}/table.parquet", storage_options=options)
    read = pandas.read_parquet(f"xdpfs://{bucket}/table.parquet", storage_options=options)
    pandas.testing.assert_frame_equal(read, table)
    columns = pandas.read_parquet(f"xdpfs://{bucket}/table.parquet", columns=["group"], storage_options=options)
    assert columns["group"].sum() == table["group"].sum()
    table.to_csv(f"xdpfs://{bucket}/table.csv", index=False, storage_options=options)
    pandas.testing.assert_frame_equal(pandas.read_csv(f"xdpfs://{bucket}/table.csv", storage_options=options), table)


def test_pyarrow_writes_and_filters_a_dataset_in_parts(cluster: object, bucket: str, table: pandas.DataFrame) -> None:
    fs = fsspec.filesystem("xdpfs", endpoint=cluster.endpoint)  # type: ignore[attr-defined]
    arrow = pyarrow.Table.from_pandas(table)
    pyarrow.dataset.write_dataset(
        arrow, f"{bucket}/table", format="parquet", partitioning=["group"], partitioning_flavor="hive", filesystem=fs
    )
    assert len(fs.find(f"{bucket}/table")) == 4
    dataset = pyarrow.dataset.dataset(f"{bucket}/table", filesystem=fs, partitioning="hive")
    some = dataset.to_table(filter=(pyarrow.dataset.field("group") == 2) & (pyarrow.dataset.field("number") < 1000))
    assert some.num_rows == 250
    assert dataset.count_rows() == ROWS


def test_pyarrow_reads_parts_of_a_file(cluster: object, bucket: str, table: pandas.DataFrame) -> None:
    fs = pyarrow.fs.PyFileSystem(
        pyarrow.fs.FSSpecHandler(fsspec.filesystem("xdpfs", endpoint=cluster.endpoint))  # type: ignore[attr-defined]
    )
    arrow = pyarrow.Table.from_pandas(table)
    pyarrow.parquet.write_table(arrow, f"{bucket}/table.parquet", filesystem=fs, row_group_size=20_000)
    file = pyarrow.parquet.ParquetFile(f"{bucket}/table.parquet", filesystem=fs, pre_buffer=True)
    assert file.num_row_groups == 10
    assert file.read_row_group(7, columns=["number"])["number"][0].as_py() == 140_000
    assert fs.get_file_info(f"{bucket}/table.parquet").size > 0


def test_zarr_keeps_arrays_in_pieces(cluster: object, bucket: str) -> None:
    options = {"endpoint": cluster.endpoint}  # type: ignore[attr-defined]
    store = zarr.storage.FsspecStore.from_url(f"xdpfs://{bucket}/array", storage_options=options)
    numbers = numpy.arange(300 * 400, dtype="int32").reshape(300, 400)
    array = zarr.create_array(store, shape=numbers.shape, chunks=(100, 100), dtype=numbers.dtype)
    array[:] = numbers
    read = zarr.open_array(store, mode="r")
    numpy.testing.assert_array_equal(read[150:250, 90:110], numbers[150:250, 90:110])
    numpy.testing.assert_array_equal(read[:], numbers)
