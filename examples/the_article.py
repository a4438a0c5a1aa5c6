"""The article that noisemill grew out of, again: noise through a generator, shown as a Plotly heatmap.

    python examples/the_article.py

Writes article.html (as the article shows it: one sample of the untrained network), and fashion.html (a trained one). It
takes half a minute. docs/article.md lists the errors of the article. Cells (`# %%`) are those of an editor that
runs Python by the cell.
"""

# %% The generator: `createGenerator(100)`, untrained, as it is printed
from pipeline.generators import find_generator
from pipeline.generators.sampling import draw

article = find_generator("article")
print(f"{article.name}: {article.interface.latent_shape} -> {article.interface.sample_shape}")

# %% Noise in, a picture out: `generator.predict(tf.randomNormal([1, 100]))`
from pipeline.generators.sampling import Drawn

noise_picture: Drawn = draw(article, index=0, seed=1)
picture = noise_picture.samples[0]
print(f"{picture.shape}, {picture.min():.4f} to {picture.max():.4f}")

# %% The heatmap. Untrained, the values are near 0, so their own range is the scale
from pathlib import Path

from pipeline.datasets.report import heatmap

own_range = (float(picture.min()), float(picture.max()))
Path("article.html").write_text(heatmap.html(picture, own_range, "An untrained generator"), encoding="utf-8")

# %% The same with a generator that was trained, and a label
fashion = find_generator("fashion")
boot = draw(fashion, index=0, seed=1, label="Ankle boot").samples[0]
Path("fashion.html").write_text(heatmap.html(boot, fashion.interface.value_range, "An ankle boot"), encoding="utf-8")
print(heatmap.text(boot, fashion.interface.value_range, columns=56))

# %% From one picture to a dataset: what the article leaves to the reader
import noisemill

dataset = noisemill.generate("article-28", "article-samples", count=256, seed=1)
print(f"{len(dataset)} samples of {dataset[0][0].shape} in {dataset.url}")
