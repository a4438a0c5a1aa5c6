"""Judges samples by what a small classifier makes of them: `python -m workers.once.evaluation REQUEST`.

classifier   the classifier, and its cache
neighbours   coverage and novelty
figures      the figures of samples beside real images
"""
