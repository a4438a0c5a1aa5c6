"""What a recipe needs to be used: its file, its generator, and the user's files.

Imports neither Redis nor Celery, which streams do not need.
"""

from __future__ import annotations

from pipeline.common.errors import GeneratorError, UnknownGeneratorError, UsageError
from pipeline.common.files import open_regular
from pipeline.datasets.destination import Upload
from pipeline.datasets.recipe import MAX_BYTES, Recipe
from pipeline.generators import Generator, find_named_by_data
from pipeline.jobs.request import labels_upload, rows_upload
from pipeline.spec import plan as shards
from pipeline.stores import open_store


def read_recipe(place: str) -> Recipe:
    """The recipe in a file or an s3:// object. Raises UsageError if it is unreadable, DatasetError if it is invalid."""
    try:
        if place.startswith("s3://"):
            folder, _, name = place.rpartition("/")
            with open_store(folder).open(name) as remote:
                text = remote.read(MAX_BYTES + 1)
        else:
            with open_regular(place) as file:
                text = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise UsageError(f"recipe {place!r}: there is no such file") from None
    except (IsADirectoryError, ValueError):
        raise UsageError(f"recipe {place!r} is not a file; 'noisemill recipe DEST' writes one") from None
    except OSError as error:
        raise UsageError(f"recipe {place!r} cannot be read: {error.strerror or error}") from None
    return Recipe.from_json(text, place)


def recipe_generator(recipe: Recipe, reference: str | None, *, trust: bool) -> Generator:
    """The recipe's generator. Raises GeneratorError if it is missing, different or not trusted."""
    digest = recipe.spec.digest
    try:
        found = find_named_by_data(recipe.spec.generator, generator=reference, trust=trust)
    except UnknownGeneratorError as error:
        if reference is not None:
            raise
        raise GeneratorError(
            f"the recipe's generator was not found ({error}): give its location with --generator; "
            f"its digest begins with {digest[:19]}"
        ) from None
    if found.digest != digest:
        raise GeneratorError(
            f"generator {found.reference!r} is not the recipe's: its digest is {found.digest[:19]}..., the recipe's "
            f"{digest[:19]}... ({recipe.spec.generator_name}, {recipe.where}); give that one with --generator"
        )
    return found


def recipe_uploads(
    recipe: Recipe, *, latents: str | None = None, attributes: str | None = None, labels: str | None = None
) -> list[Upload]:
    """The user's latents, attributes and labels: from the recipe, or from the files given. Raises UsageError."""
    brought = {
        shards.LATENTS: latents and rows_upload(shards.LATENTS, latents, recipe.spec.latent_dim),
        shards.ATTRIBUTES: attributes and rows_upload(shards.ATTRIBUTES, attributes, recipe.spec.attributes_dim),
        shards.LABELS: labels and labels_upload(labels, recipe.spec.classes or ()),
    }
    uploads = []
    for name, each in recipe.inputs.items():
        upload = brought.pop(name) or (Upload(name, each.data) if each.data is not None else None)
        option = f"--{name.removesuffix('.npy')}"
        if upload is None:
            raise UsageError(
                f"the dataset was made with {name} of {each.size_bytes:,} bytes, too large for the recipe: "
                f"give that file with {option}"
            )
        if upload.sha256 != each.sha256:
            raise UsageError(f"{name} is not the one that the dataset was made with: its hash differs ({option})")
        uploads.append(upload)
    if extra := next((name for name, given in brought.items() if given), None):
        raise UsageError(f"--{extra.removesuffix('.npy')} is not needed: the dataset was made without")
    return uploads
