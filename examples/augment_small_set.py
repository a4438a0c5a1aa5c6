"""Does synthetic data help where real data is scarce? Measured, whatever comes out.

    python examples/augment_small_set.py

Real data: Fashion-MNIST, from Debian's package dataset-fashion-mnist. It takes minutes on two cores, half a
minute with EXAMPLE_SMALL=1. Cells (`# %%`) are those of an editor that runs Python by the cell.
"""

# %% Settings
import os

SMALL = bool(os.environ.get("EXAMPLE_SMALL"))
SIZES = [10] if SMALL else [5, 20, 100]  # real images of each class
SAMPLES = 500 if SMALL else 10_000
SEEDS = range(1 if SMALL else 3)  # other real images, other classifiers
DESTINATION = os.environ.get("EXAMPLE_DESTINATION", "augment-samples")

# %% Synthetic data: interrupted or run again, it goes on where it stopped
import noisemill

dataset = noisemill.generate("fashion", DESTINATION, count=SAMPLES, dtype="uint8", seed=11)
classes = dataset.spec.classes or ()
images, labels = dataset[:]
assert labels is not None

# %% Real data, and the test images on which all are compared
import numpy as np

from pipeline.datasets.evaluation.real_data import FASHION_MNIST, Labelled, load_real

real = load_real(FASHION_MNIST, dataset.spec)
synthetic = Labelled(images, labels)


def few(each: int, seed: int) -> Labelled:
    """So many real images of each class."""
    random = np.random.default_rng(seed)
    rows = [random.choice(np.flatnonzero(real.training.labels == label), each, False) for label in range(len(classes))]
    return real.training.only(np.concatenate(rows))


def together(a: Labelled, b: Labelled) -> Labelled:
    """Both, the few as often as it takes to be a third of all."""
    times = max(1, len(b.labels) // (2 * len(a.labels)))
    images = np.concatenate([*[a.images] * times, b.images])
    return Labelled(images, np.concatenate([*[a.labels] * times, b.labels]))


# %% The same classifier after seeing few real images, samples, or both
from workers.engine.tensorflow_start import start_tensorflow

start_tensorflow()
from workers.once.evaluation.classifier import classify, train_classifier


def accuracy(data: Labelled, seed: int) -> float:
    """On the 10,000 test images."""
    predicted, _ = classify(train_classifier(data, len(classes), seed), real.test.images)
    return float(np.mean(predicted == real.test.labels))


print(f"{'real images':>12} {'real alone':>14} {'both':>14} {'gain':>8}")
for each in SIZES:
    alone = [accuracy(few(each, seed), seed) for seed in SEEDS]
    both = [accuracy(together(few(each, seed), synthetic), seed) for seed in SEEDS]
    gain = np.mean(both) - np.mean(alone)
    accuracies = (f"{np.mean(found):.3f} ± {np.std(found):.3f}" for found in (alone, both))
    print(f"{each * len(classes):>12} {'  '.join(f'{text:>13}' for text in accuracies)} {gain:>+8.3f}")
print(f"samples alone ({SAMPLES:,}): {accuracy(synthetic, 0):.3f}")

# %% [markdown]
# What this shows, and what not: `fashion` was trained on all 60,000 training images, so its samples contain what it
# learned from them. This is the case of a user who has a generator and few images. It does not show that a generator
# trained on the few images alone would help.
#
#      real images     real alone           both     gain
#               50 0.646 ± 0.005  0.856 ± 0.001   +0.210
#              200 0.749 ± 0.020  0.856 ± 0.002   +0.107
#             1000 0.818 ± 0.001  0.859 ± 0.002   +0.041
#     samples alone (10,000): 0.859
#
# So the samples do nearly all the work: with them, the few real images add nothing that can be measured.
