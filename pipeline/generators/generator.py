"""The generator class."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from pipeline.common.errors import UsageError, shown
from pipeline.generators.interface import Constant, Interface, constant_of
from pipeline.generators.model import Model
from pipeline.spec.about import About
from pipeline.spec.sampler import Sampler


@dataclass(frozen=True, kw_only=True)
class Generator(Model):
    """A generator and its identity."""

    interface: Interface
    #: The default sampler of a denoiser; None for a generator that takes one pass.
    sampler: Sampler | None = None
    #: License and provenance; not part of the digest.
    about: About = field(default_factory=About)

    def settings(self, values: Mapping[str, float | Sequence[float]]) -> tuple[Constant, ...]:
        """Constants that replace the generator's own, by input name. Raises UsageError.

        Sorted, and without those equal to the generator's own, so that equal settings give equal tuples.
        """
        own, ports = dict(self.interface.constants), {port.name: port for port in self.structure.inputs}
        found = []
        for name, value in sorted(values.items()):
            if name not in own:
                names = f"it has {', '.join(own)}" if own else "it has none"
                raise UsageError(f"the generator has no setting {shown(name)}: {names}")
            try:
                numbers = constant_of(ports[name], value if isinstance(value, Sequence) else [value])
            except (TypeError, ValueError) as error:
                raise UsageError(f"setting {shown(name)}: {error}") from None
            if not all(map(math.isfinite, numbers)):
                raise UsageError(f"setting {shown(name)} is not finite")
            if set(numbers) != set(own[name]) or (len(set(numbers)) > 1 and numbers != own[name]):
                found.append((name, numbers))
        return tuple(found)

    def sampler_of(
        self,
        method: str | None = None,
        steps: int | None = None,
        guidance: float | None = None,
        eta: float | None = None,
    ) -> Sampler | None:
        """The sampler with these options and defaults for the others. Raises UsageError if it is not supported."""
        usual, given = self.sampler, (method, steps, guidance, eta)
        if usual is None:
            if given != (None,) * len(given):
                raise UsageError(
                    "--sampler, --steps, --guidance and --eta are for denoisers, which [sampler] in generator.toml "
                    "describes: this generator makes a sample in one pass"
                )
            return None
        if eta is None:
            # The default belongs to the default method.
            eta = usual.eta if method in (None, usual.method) else 0.0
        sampler = Sampler(
            method=usual.method if method is None else method,
            steps=usual.steps if steps is None else steps,
            guidance=usual.guidance if guidance is None else guidance,
            eta=eta,
        )
        self.check_sampler(sampler)
        return sampler

    def check_sampler(self, sampler: Sampler | None) -> None:
        """Raises UsageError if the generator does not support this sampler, or needs one and there is none."""
        denoiser = self.interface.denoiser
        if (sampler is None) != (denoiser is None):
            raise UsageError("a denoiser takes a sampler, and no other generator does")
        if sampler is not None and denoiser is not None:
            denoiser.check(sampler)

    @property
    def flop_per_sample(self) -> int | None:
        """Multiplications and additions of all passes for one sample; None if unknown."""
        flop = self.structure.flop
        return None if flop is None else flop * (self.sampler.evaluations if self.sampler else 1)

    def as_json(self) -> dict[str, Any]:
        """For `--json` and for a worker's announcement."""
        return {
            **super().as_json(),
            "flop_per_sample": self.flop_per_sample,
            "sampler": str(self.sampler) if self.sampler else None,
            "notes": list(self.structure.notes),
            "about": self.about.as_json(),
            **asdict(self.interface),
            "latent_dim": self.interface.latent_dim,
        }
