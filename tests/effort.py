"""How hard XLA tries: the tests compile with the least effort, except for what users get."""

import jax

# what the tests set for everything, and what users have
OPTIONS = {
    "xla_backend_optimization_level": (0, 3),
    "xla_llvm_disable_expensive_passes": (True, False),
    "xla_cpu_parallel_codegen_split_count": (1, 1),  # 32 are the same kernels, in more modules
}
if jax.__version_info__ < (0, 12):
    OPTIONS["xla_cpu_use_fusion_emitters"] = (False, True)

FLAGS = " ".join(f"--{name}={str(least).lower()}" for name, (least, _) in OPTIONS.items())


def users_jit(function, **keywords):
    """`jax.jit` as users have it, for accuracy, extremes and NaN."""
    options = {name: usual for name, (_, usual) in OPTIONS.items()}
    return jax.jit(function, compiler_options=options, **keywords)
