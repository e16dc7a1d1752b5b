"""XLA's flags for programs that are compiled once and run for a moment."""

import os

#: Kernels by LLVM's own code generator, not by way of MLIR, all in one module.
QUICK = (
    "--xla_backend_extra_options=xla_cpu_disable_new_fusion_emitters=true"
    " --xla_cpu_parallel_codegen_split_count=1"
)


def quick_environment(**more: str) -> dict[str, str]:
    """The variables of this process for another one whose programs are compiled likewise."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} {QUICK}"
    return os.environ | {"XLA_FLAGS": flags, "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"} | more
