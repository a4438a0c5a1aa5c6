"""Evaluates samples with a small classifier: `python -m workers.once.evaluation REQUEST`.

classifier   the classifier, and its cache
neighbours   coverage and novelty
figures      metrics of samples compared with real images
"""
