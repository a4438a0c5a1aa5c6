"""A million samples to S3, by workers that share the job; watched, checked and read from there.

    noisemill worker fashion --redis redis://localhost:6379/0          # on each machine that is to help
    NOISEMILL_REDIS_URL=redis://localhost:6379/0 python examples/million_to_s3.py s3://bucket/clothes

S3 is found as boto3 does it: AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID and so on. EXAMPLE_SMALL=1 makes 2,000 samples.
Stopped, it leaves the job running; started again, it follows the same job. Cells (`# %%`) are those of an editor that
runs Python by the cell.
"""

# %% Settings
import os
import sys
import time

SMALL = bool(os.environ.get("EXAMPLE_SMALL"))
COUNT = 2_000 if SMALL else 1_000_000
DESTINATION = sys.argv[1] if len(sys.argv) > 1 else "s3://datasets/clothes-1M"
GENERATOR = os.environ.get("EXAMPLE_GENERATOR", "fashion")

# %% Queue it: one message per worker, however many samples. tar, since a million PNGs take readers minutes to list
import noisemill

handle = noisemill.submit(GENERATOR, DESTINATION, count=COUNT, format="tar", shard_size=500 if SMALL else 10_000)
print(handle.id, handle.warning or "")

# %% Watch it
while (job := handle.status()).live:
    print(f"{job.state}: {job.samples_made:,} of {job.count:,} samples, {job.rate or 0:,.0f}/s")
    time.sleep(1 if SMALL else 10)
job = handle.wait()  # raises JobFailedError if it failed
print(f"done: {job.samples_done:,} samples, {job.bytes_done / 1e6:,.1f} MB, {job.verdict}")

# %% Read it from there: any sample, a slice, or all of it as a stream
dataset = noisemill.Dataset(DESTINATION)
sample, label = dataset[COUNT // 2]
samples, labels = dataset[-100:]
print(f"sample {COUNT // 2:,}: {sample.shape} {sample.dtype}, label {label}; the last 100: {samples.shape}")

# %% Check it: every byte against its receipt
from pipeline.datasets.verification import verify

report = verify(DESTINATION)
print("sound" if report.sound else report.problems[0], f"({report.bytes_checked / 1e6:,.1f} MB hashed)")

# %% A recipe of it, to make it again anywhere, and a page to look at
from pathlib import Path

from pipeline.datasets.recipe import recipe_of
from pipeline.datasets.report import gather_findings, page

Path("clothes.recipe.json").write_text(recipe_of(dataset).to_json())
Path("clothes.html").write_text(page(gather_findings(dataset)))
for name in ("clothes.recipe.json", "clothes.html"):
    print(f"{name}: {Path(name).stat().st_size / 1e3:,.1f} kB")
