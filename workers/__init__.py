"""Carries out jobs: one worker has one device and one generator."""
