from hypothesis import given, settings
from hypothesis import strategies as st

from scenerl.preprocess.records import Media, Sample, Target
from scenerl.preprocess.store import _parquet, _schema, row_to_sample, sample_to_row

numbers = st.floats(-1e6, 1e6)
texts = st.text(st.characters(codec="utf-8"), max_size=12)
media = st.builds(
    Media,
    kind=st.sampled_from(["video", "image"]),
    scene=st.none() | texts,
    video=st.none() | texts,
    frame_indices=st.none() | st.lists(st.integers(0, 10**6), max_size=4).map(tuple),
)
targets = st.builds(
    Target,
    spans_s=st.none() | st.lists(st.tuples(numbers, numbers), max_size=3).map(tuple),
    boxes_px=st.none()
    | st.dictionaries(st.integers(0, 999), st.tuples(*[numbers] * 4), max_size=3),
    box_world=st.none() | st.tuples(*[numbers] * 6),
    object_id=st.none() | st.integers(1, 65535),
    object_ids=st.none() | st.lists(st.integers(1, 65535), max_size=3).map(tuple),
    boxes_world=st.none() | st.lists(st.tuples(*[numbers] * 6), max_size=3).map(tuple),
    label=st.none() | texts,
    answers=st.none() | st.lists(texts, max_size=3).map(tuple),
    completion=st.none() | texts,
)
samples = st.builds(
    Sample,
    sample_id=texts,
    dataset=texts,
    split=texts,
    question=texts,
    media=media,
    target=targets,
    scene_id=st.none() | texts,
    kind=texts,
    provenance=texts,
    item_id=texts,
    situation=texts,
    options=st.none() | st.lists(texts, max_size=4).map(tuple),
)


@settings(deadline=None)
@given(st.lists(samples, max_size=4))
def test_samples_survive_parquet_exactly(written: list[Sample]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.read_table(pa.BufferReader(_parquet(written)), schema=_schema())
    assert [row_to_sample(row) for row in table.to_pylist()] == written


@given(samples)
def test_row_and_record_are_inverse(sample: Sample) -> None:
    assert row_to_sample(sample_to_row(sample)) == sample
