"""Windows of a text: pure functions of (seed, step), targets one ahead, every held-out window once."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from framework.errors import ConfigError, DataError
from framework_data.text import UNKNOWN, characters_of, encode, read, text


@pytest.fixture
def file(tmp_path):
    def write(content):
        path = tmp_path / "text.txt"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(path)

    return write


def decoded(data, numbers):
    return "".join(data.facts["characters"][i] for i in numbers)


@pytest.mark.parametrize("seed", [0, 1, -3])
@pytest.mark.parametrize("start", [0, 7])
def test_batch_k_depends_on_seed_and_k_alone(seed, start):
    whole = list(itertools.islice(text().train(seed), start + 3))
    for step, batch in zip(range(start, start + 3), text().train(seed, start), strict=False):
        for name in ("inputs", "targets"):
            np.testing.assert_array_equal(batch[name], whole[step][name])
            assert batch[name].dtype == np.int32 and batch[name].shape == (12, 64) and batch[name].flags.c_contiguous
    other = next(text().train(seed + 1, start))
    assert not np.array_equal(other["inputs"], whole[start]["inputs"])


def test_windows_are_pieces_of_the_training_part_and_targets_are_one_ahead(file):
    content = "".join(f"{i} sheep, " for i in range(200))
    data = text(file(content), block=16, batch_size=5, validation=0.25)
    training = content[: len(content) - round(len(content) * 0.25)]
    for batch in itertools.islice(data.train(0), 20):
        np.testing.assert_array_equal(batch["inputs"][:, 1:], batch["targets"][:, :-1])
        for inputs, targets in zip(batch["inputs"], batch["targets"], strict=True):
            assert decoded(data, inputs) + decoded(data, targets)[-1] in training
    assert data.steps_per_epoch == len(training) // (5 * 16)


def test_places_cover_the_whole_training_part(file):
    data = text(file("ab" * 20 + "cd" * 5), block=4, batch_size=8, validation=0.2)
    first = {decoded(data, row) for batch in itertools.islice(data.train(0), 60) for row in batch["inputs"]}
    assert first == {"abab", "baba"}
    starts = text(file("abcdefghijklmnopqrst"), block=3, batch_size=64, validation=0.4)
    seen = {decoded(starts, row) for batch in itertools.islice(starts.train(0), 9) for row in batch["inputs"]}
    assert seen == {"abcdefghijkl"[i : i + 3] for i in range(9)}


def test_the_held_out_end_is_read_once_from_left_to_right(file):
    data = text(file("x" * 60 + "0123456789" * 4), block=8, eval_batch_size=3, validation=0.4, vocabulary=16)
    batches = list(data.eval("validation"))
    weights = np.concatenate([batch["weights"] for batch in batches])
    targets = np.concatenate([batch["targets"] for batch in batches])
    assert weights.tolist() == [1, 1, 1, 1, 0, 0] and targets.shape == (6, 8)
    assert set(targets.ravel()) == {0}  # digits do not occur in the training part
    known = text(file("0123456789" * 10), block=8, eval_batch_size=4, validation=0.4)
    (batch,) = known.eval("validation")
    assert "".join(decoded(known, row) for row in batch["targets"]) == ("0123456789" * 4)[1:33]
    with pytest.raises(ConfigError, match="there is no split 'test'"):
        known.eval("test")


def test_rare_characters_share_the_unknown_one():
    content = "aaaa\u00e9\u00e9\u00e9bb\U0001f600\U0001f600c" + UNKNOWN * 9
    assert characters_of(content, 4) == UNKNOWN + "ab\u00e9"
    assert characters_of(content, 99) == UNKNOWN + "abc\u00e9\U0001f600"
    assert encode("a\u00e9z\U0001f600b", UNKNOWN + "ab\u00e9").tolist() == [1, 3, 0, 0, 2]
    assert encode("\U0001f600", UNKNOWN + "a\U0001f600").tolist() == [2]


def test_the_shipped_text_needs_nothing():
    data = text()
    assert data.spec["inputs"].shape == data.spec["targets"].shape == (12, 64)
    assert data.facts["characters"][0] == UNKNOWN and len(data.facts["characters"]) <= 128
    content, _ = read(None)
    assert content.startswith("First Citizen:\n") and len(content) == 399_862
    assert max(batch["inputs"].max() for batch in data.eval("validation")) < len(data.facts["characters"])


def test_line_ends_and_byte_order_marks_do_not_count(file):
    assert read(file(b"\xef\xbb\xbfone\r\ntwo\n"))[0] == "one\ntwo\n"


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        (b"", {}, r"text\.txt is empty, expected a text"),
        (b"caf\xe9 au lait", {}, r"text\.txt: byte 3 is not UTF-8"),
        (b"short", {}, r"its training part has 5 characters, expected more than block, 64"),
        (b"a" * 100, {"block": 20}, r"its validation part has 10 characters, expected more than block, 20"),
    ],
)
def test_a_file_that_cannot_serve_is_refused_in_one_line(file, content, options, message):
    with pytest.raises(DataError, match=message) as caught:
        text(file(content), **options)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(DataError, match=r"nothing\.txt cannot be read: No such file"):
        text(str(tmp_path / "nothing.txt"))


def test_characters_may_be_those_of_another_text(file):
    data = text(file("abcd" * 40), block=8, validation=0.2, characters="?acx")
    assert set(next(data.train(0))["inputs"].flat) == {0, 1, 2} and data.facts["characters"] == "?acx"
    for wrong in ("?", "?ca", "?aa", "?" + "a" * 200):
        with pytest.raises(ConfigError, match="expected 2 to 128 characters, from the second on in ascending order"):
            text(characters=wrong)


@pytest.mark.parametrize(
    ("option", "value"),
    [("block", 0), ("batch_size", 0), ("validation", 1.0), ("vocabulary", 1), ("vocabulary", 70000)],
)
def test_numbers_out_of_range_are_refused(option, value):
    with pytest.raises(ConfigError, match=f"{option} is {value}, expected"):
        text(**{option: value})
