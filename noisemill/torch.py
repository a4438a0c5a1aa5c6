"""Streams as PyTorch datasets. Imports PyTorch, which noisemill does not need otherwise."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import IterableDataset, get_worker_info

from noisemill import Stream


class StreamDataset(IterableDataset):  # type: ignore[misc]  # PyTorch is not installed where types are checked.
    """The batches of a stream as tensors: samples and labels (int64), or samples alone without classes.

        loader = DataLoader(StreamDataset(stream), batch_size=None)

    Its batches are those of the stream, so the loader must make none. With `num_workers`, each worker has a process of
    its own that makes a share of the samples, after the stream's own rank and world size. One worker keeps the device
    busy already: more of them are for several devices.
    """

    def __init__(self, stream: Stream) -> None:
        super().__init__()
        self.stream = stream

    def __iter__(self) -> Iterator[Any]:
        worker = get_worker_info()
        mine = self.stream if worker is None else self.stream.shared(worker.id, worker.num_workers)
        for samples, labels in mine:
            tensor = torch.from_numpy(samples)
            yield tensor if labels is None else (tensor, torch.from_numpy(labels).long())
