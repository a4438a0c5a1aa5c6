"""The trained generators that ship: what their files and model cards say."""

import hashlib
from pathlib import Path

import pytest

from pipeline.generators import find_generator

BUILTIN = Path(__file__).parents[2] / "pipeline/generators/builtin"


@pytest.mark.parametrize("name", ["fashion", "fashion-flow"])
def test_the_card_is_about_this_model(name: str) -> None:
    card = (BUILTIN / name / "MODEL_CARD.md").read_text(encoding="utf-8")
    model = (BUILTIN / name / "model.keras").read_bytes()
    assert f"`{hashlib.sha256(model).hexdigest()}` (`model.keras`)" in card
    assert f"{find_generator(name).structure.parameters:,} parameters" in card
    assert len(model) <= 10_000_000


def test_fashion_flow_is_a_denoiser_with_a_usual_sampler() -> None:
    found = find_generator("fashion-flow")
    assert found.interface.latent_shape == found.interface.sample_shape == (28, 28, 1)
    assert found.interface.classes == find_generator("fashion").interface.classes
    assert found.sampler is not None
    assert found.flop_per_sample == 94_060_672 * found.sampler.evaluations
    denoiser = found.interface.denoiser
    assert denoiser is not None
    assert (denoiser.predicts, denoiser.schedule, denoiser.time_as, denoiser.none) == ("sample", "flow", "fraction", 10)
