"""One self-contained HTML page about a dataset, without scripts or requests.

findings   the data of the page, from receipts and a bounded selection of samples
pictures   grids and mean images, as data: URLs
charts     bars, histograms and curves, as SVG
page       the page
"""

from pipeline.datasets.report.findings import Findings, gather_findings
from pipeline.datasets.report.page import page

__all__ = ["Findings", "gather_findings", "page"]
