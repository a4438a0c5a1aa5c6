"""Where the mill's shards go: receipts at the destination, commits and failures in the ledger, the job's last step."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Any

from pipeline.common.errors import LedgerError, NoisemillError, StoreError
from pipeline.datasets.dataset import Dataset
from pipeline.datasets.finishing import finish_dataset
from pipeline.datasets.packs import are_packed, write_pack
from pipeline.datasets.receipts import EngineRecord, Receipt, Statistics
from pipeline.jobs.ledger import Claim
from pipeline.spec import plan as shards
from pipeline.stores.store import StoredFile
from workers.making.assignment import Assignment, in_words
from workers.making.leases import Leases
from workers.making.mill import Work
from workers.telemetry import metrics

log = logging.getLogger("noisemill")

#: Longest pause before a failed shard is tried again, seconds.
_LONGEST_DELAY_S = 30.0


class ShardSink:
    """Records how each shard of a slice ended."""

    def __init__(self, assignment: Assignment, leases: Leases, dataset: Dataset, record: EngineRecord) -> None:
        self._assignment, self._leases, self._dataset, self._record = assignment, leases, dataset, record
        #: Whether this slice has made a shard.
        self.has_made = False

    def still_ours(self, work: Work) -> bool:
        """Checks the leases of the shard and of the destination. Raises StoreError, as when the latter is lost."""
        self._leases.patiently(self._leases.renew)
        if work.lost or self._leases.ended:
            return False
        self._assignment.lease.check()
        return True

    def made(self, work: Work, files: list[StoredFile], statistics: Statistics, seconds: Mapping[str, float]) -> None:
        """Writes the receipt, then commits the shard in the ledger."""
        if not self.still_ours(work):
            self._leases.forget(work)
            return
        receipt = Receipt(
            samples_sha256=self._assignment.spec.samples_sha256,
            shard=work.shard.index,
            first=work.shard.first,
            count=work.shard.count,
            files=tuple(files),
            statistics=statistics,
            made_by=self._record,
            attempt=work.claim.attempt,
            worker=self._assignment.worker_id,
            finished_at=time.time(),
            seconds=seconds,
            candidates=work.candidates.result() if work.candidates else None,
        )
        self._dataset.store.write(shards.receipt_name(receipt.shard), receipt.to_json().encode())
        self._commit(work, receipt)
        self.has_made = True
        self._assignment.count(receipt.count)

    def found_done(self, work: Work) -> bool:
        """Commits the shard if an earlier attempt wrote its receipt and died before it was committed."""
        receipt = self._dataset.finished_shard(work.shard.index)
        if receipt is None:
            return False
        self._commit(work, receipt)
        return True

    def gave_up(self, work: Work) -> None:
        """Gives the shard back, or records its failure."""
        if work.trouble is None or isinstance(work.trouble, LedgerError):
            if not work.lost:
                self._give_back(work)
            self._leases.forget(work)
            return
        self._leases.forget(work)
        try:
            self._record_trouble(work, work.trouble)
        except LedgerError as error:
            log.warning(
                "job %s shard %d: its failure could not be recorded in Redis (%s): %s",
                self._assignment.job, work.shard.index, in_words(work.trouble), in_words(error),
                extra=self._about(work),
            )  # fmt: skip

    def finish(self, claim: Claim) -> None:
        """The last step of the job. Writes no manifest for a selection, or if shards were given up."""
        of = self._assignment
        state = of.ledger.job(of.job)
        try:
            of.lease.check()
            if not state.failed and state.selection is None:
                finish_dataset(of.destination, of.job, reproducible=of.is_reproducible(), about=of.about_generator)
            answer = self._leases.patiently(lambda: of.ledger.finish(of.job, claim))
            self._leases.ended = True
            log.info("job %s is %s", of.job, answer, extra=of.about())
        except StoreError as error:
            of.hold(of.job, error, claim)
        except LedgerError:
            raise
        except (NoisemillError, OSError) as error:
            # Shards have vanished since: only `resume`, which reads the destination, can put that right.
            of.ledger.abandon(of.job, str(error))

    def _record_trouble(self, work: Work, trouble: Exception) -> None:
        of = self._assignment
        if isinstance(trouble, StoreError):
            self._leases.ended = True
            of.hold(of.job, trouble, work.claim)
            return
        message = in_words(trouble)
        delay_s = min(_LONGEST_DELAY_S, 0.5 * 4 ** (work.claim.attempt - 1))
        answer = self._leases.patiently(lambda: of.ledger.fail(of.job, work.claim, message, delay_s=delay_s))
        if answer != "stale":
            metrics.FAILURES.labels(answer).inc()
        log.warning(
            "job %s shard %d attempt %d failed (%s): %s",
            of.job, work.shard.index, work.claim.attempt, answer, message,
            exc_info=None if isinstance(trouble, NoisemillError) else trouble,
            extra=self._about(work),
        )  # fmt: skip

    def _commit(self, work: Work, receipt: Receipt) -> None:
        of = self._assignment
        self._leases.forget(work)
        answer = self._leases.patiently(
            lambda: of.ledger.commit(
                of.job,
                work.claim,
                samples=receipt.count,
                size_bytes=receipt.size_bytes,
                stage_seconds=receipt.seconds,
            )
        )
        metrics.spent(receipt.seconds)
        if answer in ("done", "filled"):
            metrics.committed(receipt.count, receipt.size_bytes)
        log.info(
            "job %s shard %d attempt %d: %s", of.job, work.shard.index, work.claim.attempt, answer,
            extra=self._about(work),
        )  # fmt: skip
        if answer == "filled" and are_packed(self._dataset.store, len(receipt.files)):
            self._pack(work)

    def _pack(self, work: Work) -> None:
        """Copies the receipts of many shards into one object, for the job's last step and for `resume`."""
        try:
            write_pack(self._dataset.store, work.shard.index // shards.PACK_SHARDS)
        except StoreError as error:  # The receipts are there; reading each takes longer.
            log.info("job %s: a pack of receipts could not be written: %s", self._assignment.job, in_words(error))

    def _give_back(self, work: Work) -> None:
        of = self._assignment
        try:
            of.ledger.give_back(of.job, work.claim)
        except LedgerError as error:
            log.warning(
                "job %s shard %d could not be given back; its lease will expire: %s",
                of.job, work.shard.index, in_words(error),
                extra=self._about(work),
            )  # fmt: skip

    def _about(self, work: Work) -> dict[str, Any]:
        return self._assignment.about(work.shard.index, work.claim.attempt)
