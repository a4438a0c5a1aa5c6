"""Judges: how they are found, what they are fed, how they rank, and engines that choose among candidates."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.common.errors import GeneratorError, UnknownGeneratorError, UsageError
from pipeline.generators import (
    Choice,
    Judge,
    find_generator,
    find_judge,
    find_judge_named_by_data,
    judge_names,
    remember,
)
from pipeline.jobs.request import JobRequest
from pipeline.spec.latents import latents
from tests.generators.suite import CPU, save_keras
from workers.engine.engine import BestOf, Engine
from workers.engine.engine_cache import EngineCache
from workers.engine.generators import load_generator, load_judge
from workers.engine.generators.judge import scores_of, wire_judge
from workers.engine.generators.network import Network

keras = pytest.importorskip("keras")

DATA = Path(__file__).parents[1] / "data"
TINY, TINY_JUDGE = str(DATA / "tiny.keras"), str(DATA / "tiny_judge.keras")


def judge_in(folder: Path, sidecar: str, name: str = "judge.keras") -> Path:
    """The tiny judge with a judge.toml."""
    folder.mkdir(exist_ok=True)
    shutil.copy(TINY_JUDGE, folder / name)
    (folder / "judge.toml").write_text(sidecar)
    return folder / name


def standing(interface_changes: dict[str, Any] | None = None) -> Any:
    found = find_generator(TINY)
    return replace(found, interface=replace(found.interface, **(interface_changes or {})))


# -- found without TensorFlow --------------------------------------------------------------------------


def test_a_judge_is_understood() -> None:
    judge = find_judge(TINY_JUDGE)
    assert (judge.image.name, judge.output.name, judge.width, judge.label) == ("image", "logits", 4, None)
    assert judge.is_classifier
    assert judge.layout(find_generator(TINY).interface) == "same"
    assert judge.reference == TINY_JUDGE


def test_the_built_in_one_judges_the_built_in_generators() -> None:
    assert judge_names() == ["fashion-judge"]
    judge = find_judge("fashion-judge")
    assert judge.reference == "fashion-judge"
    assert judge.value_range == (-1.0, 1.0)
    assert judge.size_bytes < 10**6
    for name in ("fashion", "fashion-flow"):
        assert judge.layout(find_generator(name).interface) == "same"


def test_the_digest_is_that_of_content_and_meaning(tmp_path: Path) -> None:
    plain = find_judge(TINY_JUDGE)
    moved = find_judge(str(judge_in(tmp_path / "a", 'summary = "any"')))
    assert moved.digest == plain.digest
    assert moved.summary == "any"
    told = [
        find_judge(str(judge_in(tmp_path / "b", text))).digest
        for text in ("[input]\nrange = [0, 1]", "[output]\nsoftmax = true", "[output]\nsoftmax = false")
    ]
    assert len({plain.digest, *told}) == 4


@pytest.mark.parametrize(("sidecar", "message"), [
    ("[input]\nrang = [0, 1]", "unknown input.rang"), ("[outputs]", "unknown outputs"),
    ("[input]\nrange = [1, 0]", "range is not a pair"), ("[input]\nrange = [0, nan]", "range is not a pair"),
    ('[input]\nchannels = "second"', "neither 'first' nor 'last'"), ("[output]\nsoftmax = 1", "neither true nor false"),
    ('[input]\nname = "picture"', "names the input 'picture', but the model has image"),
    ('[output]\nname = "score"', "names the output 'score', but the model has logits"),
    ("input = 3", r"write \[input\]"),
    ("summary = 3", "summary is not text"), ("[input", "cannot be read"),
])  # fmt: skip
def test_sidecars_that_are_refused(sidecar: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(GeneratorError, match=message):
        find_judge(str(judge_in(tmp_path / "j", sidecar)))


@pytest.mark.parametrize(("reference", "message"), [
    ("fashion-juge", "did you mean 'fashion-judge'"), ("/nowhere/judge.keras", "judge .*: there is no such file"),
    ("", "the judge's name is empty"), (TINY, "its output is 8x8x1: a judge gives one score"),
])  # fmt: skip
def test_what_is_no_judge(reference: str, message: str) -> None:
    with pytest.raises((UnknownGeneratorError, GeneratorError), match=message):
        find_judge(reference)


@pytest.mark.parametrize(("changes", "message"), [
    ({"classes": ("a", "b", "c")}, "knows 4 classes, the generator has 3"),
    ({"classes": None}, "gives 4 numbers per image; without classes, it must be one score"),
    ({"sample_shape": (9, 8, 1)}, "takes 8x8x1, the generator makes 9x8x1"),
])  # fmt: skip
def test_generators_that_it_cannot_judge(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        find_judge(TINY_JUDGE).layout(standing(changes).interface)


def test_a_range_needs_that_of_the_generator(tmp_path: Path) -> None:
    judge = find_judge(str(judge_in(tmp_path / "j", "[input]\nrange = [0, 255]")))
    with pytest.raises(UsageError, match="takes values from 0 to 255: the generator's range must be known too"):
        judge.layout(standing({"value_range": None}).interface)


def test_requests_for_half_a_choice_are_refused() -> None:
    generator = find_generator(TINY)
    for request, message in (
        ({"best_of": 4}, "--best-of needs a judge"),
        ({"judge": TINY_JUDGE}, "add --best-of K"),
        ({"min_score": 0.5}, "--min-score is for a choice"),
        ({"enough": 0.5}, "--enough is for a choice"),
        ({"enough": 1.0, "best_of": 4, "judge": TINY_JUDGE}, "score 1 is not a probability between 0 and 1"),
        ({"best_of": 1, "judge": TINY_JUDGE}, "best of 1 is not a whole number from 2 to 256"),
        ({"best_of": 257, "judge": TINY_JUDGE}, "best of 257 is not"),
    ):
        with pytest.raises(UsageError, match=message):
            JobRequest(count=10, **request).resolve(generator)
    spec, _ = JobRequest(count=10, best_of=4, judge=TINY_JUDGE, min_score=1).resolve(generator)
    assert (spec.best_of, spec.judge, spec.min_score) == (4, TINY_JUDGE, 1.0)
    assert spec.judge_digest == find_judge(TINY_JUDGE).digest


def test_own_latents_are_a_row_per_candidate(tmp_path: Path) -> None:
    np.save(tmp_path / "z.npy", np.zeros((12, 8), np.float32))
    choice: dict[str, Any] = {"judge": TINY_JUDGE, "latents": str(tmp_path / "z.npy")}
    assert JobRequest(best_of=4, **choice).resolve(find_generator(TINY))[0].count == 3
    with pytest.raises(UsageError, match="12 rows, which is no multiple of --best-of 5"):
        JobRequest(best_of=5, **choice).resolve(find_generator(TINY))


def test_data_alone_names_no_judge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOISEMILL_CACHE_DIR", str(tmp_path / "cache"))
    assert find_judge_named_by_data("fashion-judge").name == "fashion-judge"
    with pytest.raises(GeneratorError, match=r"judge .* is named by the data alone, and a judge is code"):
        find_judge_named_by_data(TINY_JUDGE)
    assert find_judge_named_by_data(TINY_JUDGE, trust=True).name == "tiny_judge"
    remember(find_judge(TINY_JUDGE))
    assert find_judge_named_by_data(TINY_JUDGE).name == "tiny_judge"


# -- ranks -----------------------------------------------------------------------------------------------


def ranks_of(
    judge: Judge, answers: NDArray[Any], labels: list[int] | None, changes: dict[str, Any] | None = None
) -> NDArray[Any]:
    """The ranks by a network that answers this, whatever it is asked; and what it was fed."""
    import tensorflow as tf

    def call(fed: Any) -> Any:
        return {judge.output.name: tf.constant(answers)}

    network = Network(structure=judge.structure, call=call)
    rank = wire_judge(network, judge, standing(changes))
    found = rank(tf.zeros((len(answers), 8, 8, 1)), None if labels is None else tf.constant(labels, tf.int32))
    ranks: NDArray[Any] = found.numpy()
    return ranks


LOGITS = np.array([[1.0, 2.0, -3.0, 0.5], [30.0, 0.0, 0.0, 0.0], [31.0, 0.0, 0.0, 0.0]], np.float32)


def test_logits_and_probabilities_give_the_same_log_odds() -> None:
    judge = find_judge(TINY_JUDGE)
    wide = np.exp(LOGITS.astype(np.float64))
    shares = wide / wide.sum(axis=1, keepdims=True)
    labels = [1, 0, 0]
    wanted = [np.log(row[k] / (np.delete(row, k).sum())) for row, k in zip(shares, labels, strict=True)]
    for answers in (LOGITS, shares.astype(np.float32)):
        ranks = ranks_of(judge, answers, labels)
        np.testing.assert_allclose(ranks, wanted, rtol=1e-5)
        # float32 rounds both probabilities to 1, and they are still told apart.
        assert ranks[1] < ranks[2]
    np.testing.assert_allclose(scores_of(ranks_of(judge, LOGITS, labels), judge), shares[range(3), labels], rtol=1e-5)
    assert scores_of(np.array([-200.0, 200.0], np.float32), judge).tolist() == pytest.approx([0, 1])


def test_softmax_that_is_told() -> None:
    judge = find_judge(TINY_JUDGE)
    uniform = np.full((1, 4), 0.25, np.float32)
    # Logits that happen to look like probabilities.
    sure = np.array([[1.0, 0.0, 0.0, 0.0]], np.float32)
    assert ranks_of(replace(judge, softmax=True), sure, [0]) == pytest.approx(1 - np.log(3))
    assert ranks_of(judge, sure, [0]) > 80
    raw = replace(judge, softmax=False)
    assert not raw.is_classifier
    assert ranks_of(raw, LOGITS, [1, 0, 3]).tolist() == [2, 30, 0]
    assert scores_of(ranks_of(raw, uniform, [2]), raw).tolist() == [0.25]


def test_a_single_number_is_the_score() -> None:
    judge = replace(find_judge(TINY_JUDGE), width=1)
    answers = np.array([[0.5], [-7.0]], np.float32)
    assert ranks_of(judge, answers, [0, 1]).tolist() == [0.5, -7]
    assert ranks_of(judge, answers[:, 0], None, {"classes": None}).tolist() == [0.5, -7]
    assert scores_of(np.array([-7.0], np.float32), judge).tolist() == [-7]


def judging_model(shape: tuple[int, ...], label: tuple[int, ...] | None = None) -> Any:
    """The mean of an image, plus a hundredth of what it is told of its label."""
    image = keras.Input(shape, name="picture")
    mean = keras.layers.Dense(1, kernel_initializer="ones")(keras.layers.Flatten()(image))
    if label is None:
        return keras.Model(image, mean)
    told = keras.Input(label, name="label")
    weights = keras.layers.Dense(1, kernel_initializer=keras.initializers.Constant(0.01))
    flat = told if len(label) == 1 else keras.layers.Reshape((1,))(told)
    return keras.Model([image, told], keras.layers.Add()([mean, weights(flat)]))


@pytest.mark.parametrize(("shape", "channels", "layout"), [
    ((8, 8, 1), None, "same"), ((1, 8, 8), None, "first"), ((64,), None, "flat"), ((8, 8), None, "flat"),
    ((None, None, 1), '"last"', "same"), ((1, 8, 8), '"first"', "first"),
])  # fmt: skip
def test_images_are_fed_as_the_judge_takes_them(
    shape: tuple[int, ...], channels: str | None, layout: str, tmp_path: Path
) -> None:
    import tensorflow as tf

    path = save_keras(tmp_path / "judge.keras", judging_model((8, 8, 1)))
    judge = find_judge(str(path))
    image = replace(judge.image, shape=shape)
    judge = replace(judge, image=image, value_range=(0.0, 255.0), channels=channels and channels.strip('"'))
    assert judge.layout(standing().interface) == layout
    fed: dict[str, Any] = {}

    def call(tensors: Any) -> Any:
        fed.update(tensors)
        return {judge.output.name: tf.zeros((2, 1))}

    samples = np.random.default_rng(0).uniform(-1, 1, (2, 8, 8, 1)).astype(np.float32)
    wire_judge(Network(structure=judge.structure, call=call), judge, standing())(tf.constant(samples), None)
    wanted = (samples + 1) * 127.5
    wanted = wanted.transpose(0, 3, 1, 2) if layout == "first" else wanted
    size = [-1, *(each or 8 for each in shape)]
    np.testing.assert_allclose(fed["picture"].numpy(), wanted.reshape(size), rtol=1e-5)


@pytest.mark.parametrize("label", [(1,), (), (4,)])
def test_a_judge_may_hear_the_label(label: tuple[int, ...], tmp_path: Path) -> None:
    import tensorflow as tf

    path = save_keras(tmp_path / "judge.keras", judging_model((8, 8, 1), label))
    judge = find_judge(str(path))
    assert judge.label is not None
    assert judge.image.name == "picture"
    ranks = load_judge(judge, standing())(tf.zeros((4, 8, 8, 1)), tf.range(4)).numpy()
    assert ranks.tolist() == pytest.approx([0.01] * 4 if label == (4,) else [0, 0.01, 0.02, 0.03])


# -- engines ---------------------------------------------------------------------------------------------


def chosen_by(engine: str, batch: int, count: int = 12, best_of: int = 4) -> tuple[NDArray[Any], ...]:
    """Samples, winners and scores of tiny's candidates, through an engine, as a worker computes them."""
    generator, judge = find_generator(TINY), find_judge(TINY_JUDGE)
    choice = BestOf(Choice(best_of=best_of, judge=judge), load_judge(judge, generator))
    compiled = Engine(load_generator(generator), generator, CPU, engine, batch, best_of=choice)
    labels = (np.arange(count) % 4).astype(np.int32)
    pieces = [
        compiled.predict(latents(3, first * best_of, size * best_of, 8), labels[first : first + size])
        for first in range(0, count, batch)
        for size in [min(batch, count - first)]
    ]
    return tuple(
        np.concatenate([getattr(piece, name)() for piece in pieces]) for name in ("samples", "winners", "scores")
    )


@pytest.mark.parametrize("engine", ["tf", "xla"])
def test_the_best_candidate_leaves_the_engine_whatever_the_batch(engine: str) -> None:
    model, judge = keras.models.load_model(TINY), keras.models.load_model(TINY_JUDGE)
    labels = np.repeat(np.arange(12) % 4, 4).astype(np.int32)
    candidates = np.asarray(model([latents(3, 0, 48, 8), labels]))
    wide = np.exp(np.asarray(judge(candidates), np.float64))
    shares = (wide / wide.sum(axis=1, keepdims=True))[np.arange(48), labels].reshape(12, 4)
    winners = shares.argmax(axis=1)
    for batch in (1, 5, 16):
        samples, found, scores = chosen_by(engine, batch)
        assert found.tolist() == winners.tolist()
        np.testing.assert_allclose(scores, shares, rtol=1e-4)
        np.testing.assert_allclose(samples, candidates.reshape(12, 4, 8, 8, 1)[np.arange(12), winners], atol=2e-6)
    assert len(set(winners.tolist())) == 4


@pytest.mark.parametrize("engine", ["tf", "xla"])
def test_the_lowest_of_equals_wins_and_nan_never(engine: str) -> None:
    import tensorflow as tf

    generator, judge = find_generator(TINY), replace(find_judge(TINY_JUDGE), width=1)
    told = np.array([[1, 3, 3, 2], [np.nan, -1, -1, np.nan], [np.inf, 1, np.inf, 1], [np.nan] * 4], np.float32)
    forward = load_generator(generator)
    for enough, winners in ((None, [1, 1, 0, 0]), (3.5, [1, 1, 0, 0]), (2.0, [1, 1, 0, 0]), (-1.5, [0, 1, 0, 0])):
        choice = Choice(best_of=4, judge=judge, enough=enough)
        compiled = Engine(
            forward, generator, CPU, engine, 4, best_of=BestOf(choice, lambda *_: tf.constant(told.ravel()))
        )
        made = compiled.predict(latents(0, 0, 16, 8), np.zeros(4, np.int32))
        assert made.winners().tolist() == winners
        np.testing.assert_array_equal(made.scores(), told)


def test_a_judge_that_xla_cannot_run_is_run_by_tensorflow() -> None:
    """As one in ONNX, which onnxruntime computes."""
    import tensorflow as tf

    generator, judge = find_generator(TINY), replace(find_judge(TINY_JUDGE), width=1)

    def outside(samples: Any, labels: Any) -> Any:
        means = tf.numpy_function(lambda each: each.mean(axis=(1, 2, 3)), [samples], tf.float32)
        return tf.ensure_shape(means, (samples.shape[0],))

    engines = EngineCache(generator, CPU)
    engines._ranks[judge.digest] = outside
    for _ in range(2):
        engine = engines.judging_engine("xla", 4, "float32", (), None, Choice(best_of=3, judge=judge))
        assert engine.engine == "tf"
    assert engines.engine("xla", 4).engine == "xla"


def test_a_judge_in_onnx_or_a_saved_model(tmp_path: Path) -> None:
    """The first takes channels first and gives probabilities; both rank as numpy does."""
    import tensorflow as tf

    generator = find_generator(TINY)
    labels = np.arange(6, dtype=np.int32) % 4
    images = np.random.default_rng(1).uniform(-1, 1, (6, 8, 8, 1)).astype(np.float32)
    keras.models.load_model(TINY_JUDGE).export(tmp_path / "saved", verbose=False)
    weight = np.random.default_rng(5).standard_normal((64, 4)).astype(np.float32)
    logits = {
        str(Path(__file__).with_name("interpreted") / "judge.onnx"): images.reshape(6, 64) @ weight,
        str(tmp_path / "saved"): np.asarray(keras.models.load_model(TINY_JUDGE)(images)),
    }
    for reference, wide in logits.items():
        shares = np.exp(wide) / np.exp(wide).sum(axis=1, keepdims=True)
        judge = find_judge(reference)
        rank = tf.function(load_judge(judge, generator), autograph=False)
        ranks = rank(tf.constant(images), tf.constant(labels)).numpy()
        np.testing.assert_allclose(scores_of(ranks, judge), shares[np.arange(6), labels], rtol=1e-4)
