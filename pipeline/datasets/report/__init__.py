"""One HTML page about a dataset, whole in itself: no script, no request, pictures and charts inside.

findings   what the page tells, gathered from receipts and a bounded sample of samples
pictures   grids and mean images, as data: URLs
charts     bars, histograms and curves, as SVG
page       the page
"""

from pipeline.datasets.report.findings import Findings, look_at
from pipeline.datasets.report.page import page

__all__ = ["Findings", "look_at", "page"]
