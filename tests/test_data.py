"""Data: splits, transforms, the order of batches; real sets where they are prepared."""

import re

import numpy as np
import pytest
import tensorflow as tf

from vaezoo import data
from vaezoo.data import sources

IMAGES = np.random.default_rng(0).integers(0, 256, (53, 4, 3, 1), dtype="uint8")


def batches(count, **settings):
    settings = {"batch_size": 10, "seed": 0, **settings}
    dataset, _ = data.training_batches(IMAGES, settings.pop("transform", "unit_interval"), **settings)
    return [batch.numpy() for batch in dataset.take(count)]


def as_rows(parts):
    return {row.tobytes() for part in parts for row in np.round(part * 255).astype("uint8")}


def test_digits_are_scikit_learns_all_of_them_once():
    from sklearn.datasets import load_digits

    splits = data.load("digits")
    parts = [splits.train, splits.validation, splits.test]
    assert [len(part.images) for part in parts] == [1297, 200, 300]
    stored = np.concatenate([part.images for part in parts])
    assert stored.shape == (1797, 8, 8, 1)
    assert stored.dtype == np.uint8
    original = np.round(load_digits().images * (255 / 16)).astype("uint8")
    assert sorted(map(bytes, stored)) == sorted(map(bytes, original))
    by_pixels = {bytes(image): label for image, label in zip(original, load_digits().target, strict=True)}
    assert all(by_pixels[bytes(image)] == label for part in parts for image, label in zip(*part, strict=True))


def test_an_epoch_holds_each_image_at_most_once_and_epochs_differ():
    drawn = batches(10)
    first, second = drawn[:5], drawn[5:]
    assert len(as_rows(first)) == len(as_rows(second)) == 50
    assert not np.array_equal(first[0], second[0])


def test_later_epochs_are_the_same_when_one_begins_with_them():
    for transform in data.TRANSFORMS.keys() - {"static_binarization", "counts"}:
        np.testing.assert_array_equal(
            batches(8, transform=transform)[5:], batches(3, transform=transform, first_epoch=1)
        )


def test_the_seed_decides_order_and_noise():
    one, same, other = (np.stack(batches(5, seed=seed, transform="dynamic_binarization")) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)


def test_dynamic_binarization_draws_bernoullis_of_the_grey_values_anew_at_each_step():
    grey = np.tile(IMAGES[:1], (10, 1, 1, 1))
    dataset, _ = data.training_batches(grey, "dynamic_binarization", batch_size=10, seed=0)
    drawn = np.stack([batch.numpy() for batch in dataset.take(400)])  # [400, 10, 4, 3, 1]
    assert set(np.unique(drawn)) == {0.0, 1.0}
    probs = grey[0] / 255.0
    five_standard_errors = 5 * np.sqrt(probs * (1 - probs) / 4000) + 1e-9
    assert (abs(drawn.mean((0, 1)) - probs) <= five_standard_errors).all()
    assert not np.array_equal(drawn[0], drawn[1])


def test_dequantised_values_fall_into_their_own_bin_uniformly():
    values = data.transform_once(np.repeat(IMAGES, 100, axis=0), "uniform_dequantization")
    np.testing.assert_array_equal(np.floor(values * 256), np.repeat(IMAGES, 100, axis=0))
    within = values * 256 - np.floor(values * 256)
    assert abs(within.mean() - 0.5) < 0.01
    assert abs(within.var() - 1 / 12) < 0.005


def test_test_images_are_drawn_once_and_for_all():
    one, same = (data.transform_once(IMAGES, "dynamic_binarization") for _ in range(2))
    np.testing.assert_array_equal(one, same)
    assert set(np.unique(one)) == {0.0, 1.0}


def test_unit_interval_of_test_images():
    np.testing.assert_allclose(data.transform_once(IMAGES, "unit_interval"), IMAGES / np.float32(255))


def test_static_binarization_leaves_binary_images_alone_and_refuses_grey_ones():
    binary = (IMAGES > 127).astype("uint8")
    np.testing.assert_array_equal(data.transform_once(binary, "static_binarization"), binary)
    with pytest.raises(ValueError, match="'static_binarization' must be given images that hold only 0 and 1"):
        data.transform_once(IMAGES, "static_binarization")
    with pytest.raises(ValueError, match="only 0 and 1.* Received: float32 from 0.* to 1"):
        data.transform_once(IMAGES / np.float32(255), "static_binarization")


@pytest.mark.parametrize("transform", ["dynamic_binarization", "unit_interval", "grey_levels"])
def test_binary_images_are_not_read_as_black(transform):
    binary = (IMAGES > 127).astype("uint8")
    with pytest.raises(ValueError, match=f"'{transform}' must be given grey images. Received: uint8 of only 0 and 1"):
        data.transform_once(binary, transform)
    with pytest.raises(ValueError, match="must be given grey images"):
        data.training_batches(binary, transform, batch_size=10, seed=0)


@pytest.mark.parametrize("number", [300, 1000, 1500, 2500])
def test_the_first_images_are_drawn_alike_whatever_their_number(number):
    images = np.random.default_rng(0).integers(256, size=(3001, 2, 2, 1)).astype("uint8")
    all_of_them = data.transform_once(images, "dynamic_binarization")
    np.testing.assert_array_equal(data.transform_once(images[:number], "dynamic_binarization"), all_of_them[:number])


@pytest.mark.parametrize("transform", ["dynamic_binarization", "uniform_dequantization"])
def test_no_two_images_of_a_test_set_share_their_noise(transform):
    """Equal images, 64 pixels of grey 128, come out different, also thousands apart: 2^-64 is the chance of a pair."""
    values = data.transform_once(np.full((3001, 8, 8, 1), 128, "uint8"), transform)
    assert len({row.tobytes() for row in values}) == 3001


def test_batches_have_static_shapes_so_that_steps_are_compiled_once():
    dataset, steps = data.training_batches(IMAGES, "unit_interval", batch_size=10, seed=0)
    assert steps == 5
    assert dataset.element_spec == tf.TensorSpec([10, 4, 3, 1], tf.float32)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 54}, "`batch_size` must be at most the 53 training images. Received: 54"),
        ({"batch_size": 0}, "`batch_size` must be an integer of at least 1. Received: 0"),
        ({"transform": "dynamic"}, "Did you mean 'dynamic_binarization'?"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError) as error:
        batches(1, **settings)
    assert message in str(error.value)


def test_arrays_make_splits():
    splits = data.Splits.from_arrays(IMAGES[:40], IMAGES[40:])
    assert splits.test is not None
    np.testing.assert_array_equal(splits.test.images, splits.validation.images)
    with pytest.raises(ValueError, match=r"`validation` must have shape \[N, H, W, C\]"):
        data.Splits.from_arrays(IMAGES, IMAGES[0])
    with pytest.raises(ValueError, match="`validation` must have shape"):
        data.Splits.from_arrays(IMAGES, IMAGES[:, :2])


# Named columns.

LABELS, TAGS = np.arange(53) % 3, np.eye(5)[np.arange(53) % 5]


def part(first=0, last=None, **columns):
    index = slice(first, last)
    return {"x": IMAGES[index], **{name: column[index] for name, column in columns.items()}}


def test_parts_hold_named_columns():
    splits = data.Splits.from_arrays(*(part(*rows, label=LABELS, tags=TAGS) for rows in ((0, 30), (30, 40), (40, 53))))
    np.testing.assert_array_equal(splits.test.images, IMAGES[40:])
    np.testing.assert_array_equal(splits.test.labels, LABELS[40:])
    np.testing.assert_array_equal(splits.validation.columns["tags"], TAGS[30:40])
    assert list(splits.train.columns) == ["x", "label", "tags"]
    few = splits.train.rows(np.array([5, 2]))
    np.testing.assert_array_equal(few.columns["tags"], TAGS[[5, 2]])
    np.testing.assert_array_equal(few.labels, LABELS[[5, 2]])
    drawn = data.draw_labels(splits, 6)
    np.testing.assert_array_equal(drawn.labelled.columns["tags"], TAGS[drawn.indices])


def test_an_image_set_is_made_of_images_and_labels_and_unpacks_into_them():
    given = data.ImageSet(IMAGES, LABELS)
    images, labels = given
    assert images is given.images is IMAGES
    assert labels is given.labels is LABELS
    assert data.ImageSet(IMAGES, None).columns.keys() == {"x"}


def test_labels_that_are_not_known_are_no_class_to_draw():
    labels = np.where(LABELS == 2, -1, LABELS)
    drawn = data.draw_labels(data.Splits.from_arrays(part(label=labels), part(label=labels)), 4)
    assert sorted(drawn.labelled.labels) == [0, 0, 1, 1]


@pytest.mark.parametrize(
    ("train", "validation", "message"),
    [
        ({"label": LABELS}, {}, "`train` must have a column x, the images or counts. Received: label"),
        (part(labels=LABELS), part(), "`train` must call its classes `label`. Received: labels"),
        (part(tags=TAGS), part(), "`validation` must have the columns of `train`: x, tags. Received: x"),
        ({"x": IMAGES, "label": LABELS[:5]}, part(), "`train` must have a row per example, 53, in each column."),
        (part(label=TAGS), part(), "`label` of `train` must be ints [N] from 0, or -1 for unknown. Received: float64"),
        (part(label=LABELS - 2), part(), "or -1 for unknown. Received: int64 [53] from -2"),
    ],
)
def test_bad_columns(train, validation, message):
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        data.Splits.from_arrays(train, validation)
    assert "\n" not in str(error.value)


def test_a_table_is_told_its_way_and_not_only_about_word_counts():
    table = np.random.default_rng(0).random((20, 30))
    with pytest.raises(ValueError, match=re.escape("scaled to [0, 1], must be images [N, 1, V, 1], train[:, None, :")):
        data.Splits.from_arrays(table, table)
    as_images = table[:, None, :, None]
    assert data.Splits.from_arrays(as_images, as_images).train.images.shape == (20, 1, 30, 1)


def test_a_file_of_arrays_has_labels(tmp_path):
    np.savez(tmp_path / "a.npz", train=IMAGES[:30], train_label=LABELS[:30], test=IMAGES[30:], test_label=LABELS[30:],
             validation=IMAGES[20:30], validation_label=LABELS[20:30])  # fmt: skip
    splits = data.load(str(tmp_path / "a.npz"))
    for name, rows in (("train", slice(30)), ("validation", slice(20, 30)), ("test", slice(30, None))):
        np.testing.assert_array_equal(getattr(splits, name).labels, LABELS[rows])
        np.testing.assert_array_equal(getattr(splits, name).images, IMAGES[rows])


def test_a_file_without_validation_has_the_last_rows_of_train_and_their_labels(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "HELD_OUT", 10)
    np.savez(tmp_path / "a.npz", train=IMAGES, train_label=LABELS, test=IMAGES, test_label=LABELS)
    splits = data.load(str(tmp_path / "a.npz"))
    np.testing.assert_array_equal(splits.validation.labels, LABELS[43:])
    np.testing.assert_array_equal(splits.train.labels, LABELS[:43])


@pytest.mark.parametrize("name", ["train_labels", "labels", "test_colour"])
def test_unknown_arrays_of_a_file_are_refused_with_the_legal_names(tmp_path, name):
    np.savez(tmp_path / "a.npz", train=IMAGES, validation=IMAGES, test=IMAGES, **{name: LABELS})
    with pytest.raises(ValueError, match=f"train_label, validation_label, test_label, .* Received: .*{name}"):
        data.load(str(tmp_path / "a.npz"))


def test_a_mistyped_name_gets_a_suggestion():
    with pytest.raises(ValueError, match="Did you mean 'mnist'") as error:
        data.load("mnsit")
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 200


def test_a_set_without_images_is_refused():
    with pytest.raises(ValueError, match="`data name` must be a set of images"):
        data.load("glue")


@pytest.mark.parametrize(
    ("name", "shape", "classes"), [("svhn_cropped", (32, 32, 3), 10), ("smallnorb", (32, 32, 2), 5)]
)
def test_sets_too_large_to_be_at_hand_are_read_as_their_papers_do(name, shape, classes):
    """From TFDS' made-up examples of the sets' own features."""
    import tensorflow_datasets as tfds

    with tfds.testing.mock_data(num_examples=20):
        for part in data.TFDS_SPLITS[name]:
            images, labels = sources._read(tfds.builder(name), part)
            assert images.shape == (20, *shape)
            assert images.dtype == np.uint8
            assert labels.min() >= 0
            assert labels.max() < classes


def test_a_norb_pair_is_both_images_averaged_over_3x3_and_rounded():
    rng = np.random.default_rng(0)
    example = {key: rng.integers(256, size=(96, 96, 1), dtype=np.uint8) for key in ("image", "image2")}
    pair, category = sources.norb_pair({**example, "label_category": 3})
    assert category == 3
    for channel, key in enumerate(("image", "image2")):
        means = example[key].reshape(32, 3, 32, 3).mean(axis=(1, 3))
        assert np.abs(pair.numpy()[..., channel] - means).max() <= 0.5 + 1e-4


@pytest.mark.parametrize("name", ["kmnist", "frey_face"])
def test_a_set_that_is_not_prepared_names_the_three_ways_out(name, tmp_path, monkeypatch):
    import tensorflow_datasets as tfds

    import vaezoo.data.frey_face  # noqa: F401

    def offline():
        raise OSError("no network")

    here = tfds.builder
    monkeypatch.setattr(tfds, "builder", lambda name: here(name, data_dir=tmp_path))
    monkeypatch.setattr(sources, "_require_network", offline)
    with pytest.raises(data.DataNotPreparedError) as error:
        data.load(name)
    text = str(error.value)
    assert "\n" not in text
    for part in (str(tmp_path), name, "(1)", "(2) set TFDS_DATA_DIR", "(3)", "vae_digits"):
        assert part in text
    assert not list(tmp_path.rglob("*incomplete*"))


def test_frey_builder_reads_the_hand_placed_file(tmp_path, monkeypatch):
    """TFDS's own writer and reader run over a stand-in of the file: 1965 frames, one a column."""
    import tensorflow_datasets as tfds
    from scipy.io import savemat

    import vaezoo.data.frey_face  # noqa: F401

    frames = np.random.default_rng(0).integers(0, 256, (560, 1965), dtype="uint8")
    (tmp_path / "downloads" / "manual").mkdir(parents=True)
    savemat(tmp_path / "downloads" / "manual" / "frey_rawface.mat", {"ff": frames})
    here = tfds.builder
    monkeypatch.setattr(tfds, "builder", lambda name: here(name, data_dir=tmp_path))
    splits = data.load("frey_face")
    stored = np.concatenate([part.images for part in (splits.train, splits.validation, splits.test)])
    assert [len(part.images) for part in (splits.train, splits.validation, splits.test)] == [1600, 165, 200]
    assert sorted(map(bytes, stored)) == sorted(bytes(frame) for frame in frames.T)
    assert stored.shape[1:] == (28, 20, 1)


@pytest.mark.rest
@pytest.mark.parametrize(
    ("name", "sizes", "shape", "mean"),
    [
        ("mnist", [55_000, 5_000, 10_000], (28, 28, 1), 33.32),
        ("fashion_mnist", [55_000, 5_000, 10_000], (28, 28, 1), 72.94),
        ("cifar10", [45_000, 5_000, 10_000], (32, 32, 3), 120.7),
        ("binarized_mnist", [50_000, 10_000, 10_000], (28, 28, 1), 0.1306),
        ("frey_face", [1600, 165, 200], (28, 20, 1), None),
    ],
)
def test_real_sets(real_data, name, sizes, shape, mean):
    """Sizes, and the mean of the published training images (of the binary set: without validation)."""
    splits = real_data(name)
    parts = [splits.train, splits.validation, splits.test]
    assert [len(part.images) for part in parts] == sizes
    assert {part.images.shape[1:] for part in parts} == {shape}
    if mean is not None:
        stored = np.concatenate(
            [splits.train.images, splits.validation.images][: 1 if name == "binarized_mnist" else 2]
        )
        assert stored.mean() == pytest.approx(mean, rel=2e-3)
