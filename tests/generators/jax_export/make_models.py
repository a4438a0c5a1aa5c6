"""Makes the models of this folder: `pip install jax`, then `python make_models.py`. What they must make is numpy's."""

import dataclasses

import jax  # type: ignore[import-not-found]
import jax.numpy as jnp  # type: ignore[import-not-found]
import numpy as np
from jax import export
from jaxlib.mlir.dialects import stablehlo  # type: ignore[import-not-found]

RNG = np.random.default_rng(4)
WEIGHT = (RNG.standard_normal((6, 16)) * 0.5).astype(np.float32)
TABLE = (RNG.standard_normal((3, 16)) * 0.5).astype(np.float32)


def plain(z: jax.Array) -> jax.Array:
    """tanh(z @ WEIGHT) as 4x4x1."""
    return jnp.tanh(z @ WEIGHT).reshape(-1, 4, 4, 1)


def conditional(z: jax.Array, *, label: jax.Array, psi: jax.Array) -> dict[str, jax.Array]:
    """tanh(psi * z @ WEIGHT + TABLE[label]) as one output of two."""
    image = jnp.tanh(psi * (z @ WEIGHT) + jnp.asarray(TABLE)[label]).reshape(-1, 4, 4, 1)
    return {"image": image, "mean": image.mean((1, 2))}


def with_weights(weight: jax.Array, z: jax.Array) -> jax.Array:
    """What nobody should export: the weights are an input."""
    return jnp.tanh(z @ weight)


def calls_python(z: jax.Array) -> jax.Array:
    """A function of Python's in the middle, as `jax.pure_callback` has it; only its name is in the file."""
    return jax.ffi.ffi_call("xla_ffi_python_cpu_callback", jax.ShapeDtypeStruct(z.shape, z.dtype))(z)


def write(name: str, function: object, *inputs: object, **settings: object) -> None:
    """One file."""
    checks = [export.DisabledSafetyCheck.custom_call("xla_ffi_python_cpu_callback")]
    platforms, version = settings.pop("platforms", None), settings.pop("version", None)
    exported = export.export(jax.jit(function), platforms=platforms, disabled_checks=checks)(*inputs, **settings)
    if version is not None:
        module = stablehlo.deserialize_portable_artifact_str(exported.mlir_module_serialized)
        module = stablehlo.serialize_portable_artifact_str(module, version)
        exported = dataclasses.replace(exported, mlir_module_serialized=module)
    with open(name, "wb") as file:
        file.write(exported.serialize())


def main() -> None:
    jax.config.update("jax_hlo_source_file_canonicalization_regex", ".*/")  # No folder of this machine in the files.
    [batch] = export.symbolic_shape("batch")
    z = jax.ShapeDtypeStruct((batch, 6), jnp.float32)
    write("plain.jaxexport", plain, z)
    four = jax.ShapeDtypeStruct((4, 6), jnp.float32)
    write("batch_of_four.jaxexport", plain, four)
    write("cuda.jaxexport", plain, z, platforms=["cuda"])
    label, psi = jax.ShapeDtypeStruct((batch,), jnp.int32), jax.ShapeDtypeStruct((), jnp.float32)
    write("conditional.jaxexport", conditional, z, label=label, psi=psi)
    write("with_weights.jaxexport", with_weights, jax.ShapeDtypeStruct((6, 16), jnp.float32), z)
    write("calls_python.jaxexport", calls_python, four)
    write("new_operations.jaxexport", lambda z: jax.lax.top_k(z, 3)[0], z)
    write("needs_fixed_batch.jaxexport", lambda z: jax.lax.top_k(z, 3)[0], z, version="1.10.0")
    write("old_version.jaxexport", lambda z: jax.lax.top_k(z, 3)[0], four, version="1.10.0")
    write("random_key.jaxexport", lambda key, z: z + jax.random.normal(key, (6,)), jax.random.key(0), z)
    latents = RNG.standard_normal((5, 6)).astype(np.float32)
    labels = np.array([0, 2, 1, 1, 0], np.int32)
    samples = np.tanh(latents @ WEIGHT).reshape(-1, 4, 4, 1)
    others = np.tanh(0.5 * (latents @ WEIGHT) + TABLE[labels]).reshape(-1, 4, 4, 1)
    np.savez("expected.npz", latents=latents, labels=labels, plain=samples, conditional=others)


if __name__ == "__main__":
    main()
